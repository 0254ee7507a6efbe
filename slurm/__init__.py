"""Sweeps: a sweep file becomes cells, cells become jobs of a site, and a campaign folder keeps what became of each.

site.py        where cells run: an executor, its partitions, how many at a time; sites/ has examples
sweep.py       what runs: the matrix of models, backends, devices, overrides, processes and seeds
cells.py       one combination of the matrix each: a name, a run folder, the steps of its work
checks/        a site held against its cluster
inside/        what runs inside a job
submission/    cells handed to a site as jobs
campaigns/     the folder of a campaign, and all that is told from it
srun.py, modules.py, sbatch_options.py  how jobs and their steps are asked for, and what is loaded before their work
processes.py   processes of this host, found again
program_environment.py  the variables that SLURM's programs are started with
sbatch/        scripts for plain sbatch

May import: psutil, pydantic; `config`, `errors`, `models`.
"""
