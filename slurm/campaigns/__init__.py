"""A campaign: one sweep on one site, in a folder that keeps all of its state.

campaign.py  creates, submits, follows, cancels, resumes
record.py    campaign.json
plan.py      what it will ask for, before anything runs, and the batch scripts to read
follow.py    its cells followed to their end, run again when they die
ending.py    how a job ended that could not say it itself
progress.py  the state of a cell, from its files, its lock and the queue; look.py reads only what has changed
logs.py      what a cell's programs wrote, attempt after attempt
gaps.py      cells that never began, as rows of the tables

May import: pyarrow; `config`, `errors`, `files`, `models.catalogue`, `network.cost`, `parallel.lock`, `preprocess`,
`runs`, `slurm`, `tables`, `telemetry`.
"""
