"""What the jobs do, one module a job, and beside it what it alone needs.

Nothing of it is loaded before its job runs: a supervisor only watches, and must stay small. May import all that lies
below `jobs/`.
"""
