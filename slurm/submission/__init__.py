"""Cells handed to SLURM, and what became of them in the queue.

parameters.py  what a job asks of its site, in submitit's words
submit.py      the jobs themselves, through submitit
queue.py       SLURM's queue, asked: states, reasons, endings

May import: submitit; `campaigns`, `errors`, `runs`, `slurm.checks.cluster_facts`, `containers.image_facts`,
`slurm.on_node`, `slurm.programs`, `slurm.site_rules`, `slurm.srun`.
"""
