"""What a container runs: a file a job, each ending in `JOB = Job(...)`; `registry` finds them, and those of packages.

`work` is what the jobs do, `process` the processes that they run in, the supervisor among them.

May import all that lies below the command line and campaigns.

`python -m mspipeline.jobs NAME CONFIG` runs a job bare, `python -m mspipeline.jobs supervise NAME CONFIG` under the
supervisor.
"""
