"""The SLURM scheduler: cells become jobs of a cluster.

submission/    cells handed to SLURM as jobs, and its queue, asked
checks/        a site held against its cluster
on_node/       what runs inside a job
srun.py, modules.py, sbatch_options.py  how jobs and their steps are asked for, and what is loaded before their work
program_environment.py  the variables that SLURM's programs are started with
sites/         site files to copy; sbatch/ has scripts for plain sbatch

May import: `config`, `errors`.
"""
