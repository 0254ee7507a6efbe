"""Sweeps: a sweep file becomes cells, cells become jobs of a site, and a campaign folder keeps what became of each.

site.py      where cells run: an executor, its partitions, how many at a time
sweep.py     what runs: the matrix of models, backends, seeds and devices
attempt.py   inside the job: the commands one after the other, signals passed on, `cell.json`
container.py the command line that runs a command inside an image
node.py      what a job on a SLURM node runs; it puts itself back into the queue when its time ends
queue.py     SLURM's queue, asked and told
submit.py    the jobs themselves, through submitit
progress.py  how far a cell is, told from its files alone
campaign.py  the campaign folder: creates, submits, follows, cancels, resumes

May import: submitit, psutil; `mspipeline.config`, `errors`, `files`, `runs`, `telemetry.schema`, `models.catalogue`.
"""
