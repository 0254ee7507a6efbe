"""What runs inside a job, on the node that it was given.

element.py    what one job of an array runs: one cell, or several side by side
node.py       a job of SLURM: its commands in an image, back into the queue when its time ends
podman.py     a `podman run` that hears the signals SLURM sends

Nothing here knows campaigns: only command lines and folders enter a job.

May import: submitit; `campaigns`, `config`, `errors`, `containers`, `slurm.programs`, `slurm.srun`.
"""
