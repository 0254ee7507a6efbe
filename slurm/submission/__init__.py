"""Cells handed to a site: as which jobs, in which order, and what became of them in the queue.

shape.py     what a job asks of its site, in submitit's words
submit.py    the jobs themselves, through submitit: submitted, looked at, stopped
queue.py     SLURM's queue, asked and told

May import: psutil, submitit; `campaigns`, `config`, `errors`, `files`, `parallel.lock`, `slurm.checks.cluster_facts`,
`slurm.on_node.element`, `slurm.on_node.node`, `slurm.program_environment`, `slurm.srun`.
"""
