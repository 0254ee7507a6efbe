"""A site held against its cluster: what that has, what this machine has, what a node would find, what an image says.

cluster_facts.py  partitions, nodes, accounts, QOS and MPI, as SLURM tells them
site_check.py     what a site file names that is not there, and what is there instead
options_check.py  whether sbatch would take the options that it names
host_check.py     modules, container runtime, images and folders on this machine
probe.py          a job of ten seconds on each partition; probe_job.py is what it runs
probe_mpi.py      a job of two ranks, in each image

May import: `campaigns.finding`, `campaigns.site`, `config`, `errors`, `containers`, `slurm.modules`,
`slurm.on_node`, `slurm.programs`, `slurm.sbatch_options`, `slurm.site_rules`, `slurm.srun`, `telemetry.gpu`.
"""
