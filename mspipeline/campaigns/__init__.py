"""Campaigns: a sweep file becomes cells, cells become jobs of a site, and a folder keeps what became of each.

sweep.py, cells.py        what runs: the matrix of a sweep file, and each combination of it as a cell
site.py                   where it runs
campaign.py, record.py    one sweep on one site, in a folder that keeps all of its state; campaign.json
certificates.py           the proofs that a sweep needs before its cells run
plan.py                   what it will ask for, before anything runs, and the batch scripts to read
arrays.py, dispatch.py    cells handed over: which of them go together, and what waits for what
before_and_after.py       the jobs before and after the cells: the preparation, the tables
attempt.py, processes.py  what runs in a cell's job, and processes of this host, found again
follow.py, ending.py      cells followed to their end and run again when they die; how their jobs ended
progress.py               the state of a cell, from its files, its lock and the queue
state_cache.py            the states of many cells, of which only what has changed is read
logs.py                   what a cell's programs wrote, attempt after attempt
gaps.py                   cells that never began, as rows of the tables
finding.py                one thing that `mspipeline doctor` looked at

May import: psutil, pyarrow, pydantic, submitit; `backends`, `config`, `errors`, `files`, `jobs.certification`,
`models`, `network`, `parallel.lock`, `preprocess`, `runs`, `shards.manifest`, `slurm`, `tables`, `telemetry`.
"""
