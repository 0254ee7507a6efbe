"""What a container runs: one module a job, and the supervisor that samples it from outside.

Top floor: may import all that lies below.

`python -m mspipeline.jobs NAME CONFIG` runs a job bare, `python -m mspipeline.jobs supervise NAME CONFIG` under the
supervisor.
"""
