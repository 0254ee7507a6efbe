"""Sweeps: a sweep file becomes cells, cells become jobs of a site, and a campaign folder keeps what became of each.

site.py      where cells run: an executor, its partitions, how many at a time
sweep.py     what runs: the matrix of models, backends, devices, overrides, processes and seeds
plan.py      what that will ask for, before anything runs, and the batch scripts to read
arrays.py    which cells share a job array, and which array waits for which
shape.py     what a job asks of its site, in submitit's words
attempt.py   inside the job: the commands one after the other, signals passed on, `cell.json`
container.py the command line that runs a command inside an image
podman.py    a `podman run` that hears the signals SLURM sends
image.py     what an image says of itself: digest, backend, version
cluster_facts.py  what a cluster says of itself: partitions, nodes, accounts, QOS, MPI
site_check.py, host_check.py  a site held against its cluster, and against this machine, as findings (finding.py)
probe.py, probe_job.py  a job of ten seconds on each partition that looks at its node
node.py      what a job on a SLURM node runs; it puts itself back into the queue when its time ends
queue.py     SLURM's queue, asked and told
submit.py    the jobs themselves, through submitit
ending.py    how a job ended that could not say it itself, and whether its cell is run again
follow.py    a campaign's cells followed to their end
progress.py  how far a cell is, told from its files alone
element.py   what one job of an array runs: one cell, or several side by side
around.py    the jobs before and after the cells: the preparation, the tables
dispatch.py  cells handed over, with all that they wait for and that waits for them
gaps.py      cells that never began, as rows of the tables
record.py    campaign.json
campaign.py  the campaign folder: creates, submits, follows, cancels, resumes

May import: submitit, psutil; `mspipeline.config`, `errors`, `files`, `runs`, `telemetry.schema`, `models.catalogue`,
`network.cost`, `preprocess`.
"""
