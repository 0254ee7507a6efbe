"""The SLURM scheduler: cells become jobs of a cluster.

scheduler.py      what campaigns ask of a scheduler, answered for SLURM
submission/       cells handed to SLURM as jobs, and its queue, asked
checks/           a site held against its cluster
on_node/          what runs inside a job
site_rules.py     what a site file means here; sbatch_options.py: the options of sbatch that it may name
srun.py, modules.py  how steps are started, and what is loaded before their work
programs.py       SLURM's programs, asked
sites/            site files to copy; sbatch/ has scripts for plain sbatch

May import: `campaigns`, `config`, `errors`.
"""
