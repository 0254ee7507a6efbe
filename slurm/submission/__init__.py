"""Cells handed to a site: as which jobs, in which order, and what became of them in the queue.

arrays.py    which cells share a job array, and which array waits for which
shape.py     what a job asks of its site, in submitit's words
submit.py    the jobs themselves, through submitit: submitted, looked at, stopped
around.py    the jobs before and after the cells: the preparation, the tables
dispatch.py  cells handed over, with all that they wait for and that waits for them
queue.py     SLURM's queue, asked and told

May import: psutil, submitit; `config`, `errors`, `files`, `parallel.lock`, `slurm`.
"""
