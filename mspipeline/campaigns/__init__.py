"""Campaigns: a sweep file becomes cells, cells become jobs of a site, and a folder keeps what became of each.

sweep.py, cells.py        what runs: the matrix of a sweep file, and each combination of it as a cell
site.py, site_file.py     where it runs: what a site file says, and how one is found; sites/ has the built-in one
scheduler.py              what a scheduler is; schedulers.py finds one by name, local.py is this machine
job_shape.py, submission.py  what a job asks for, and what is recorded of one that was submitted
campaign_folder.py        one sweep on one site, in a folder that keeps all of its state; record.py is campaign.json
campaign.py               the campaign run: submitted, followed, resumed
cancel.py                 one that is stopped from another terminal
certificates.py           the proofs that a sweep needs before its cells run
plan.py, scripts.py       what it will ask for, before anything runs, and the batch scripts to read
arrays.py, dispatch.py    cells handed over: which of them go together, and what waits for what
before_and_after.py       the jobs before and after the cells: the preparation, the tables
run_commands.py           what runs in a cell's job; attempt.py is the record that it writes
follow.py                 cells followed to their end and run again when they die
ending.py, memory.py      how their jobs ended, and whether memory ran out
cell_files.py             what the files of a cell say; cell_state.py adds its lock and the queue
state_cache.py            the states of many cells, of which only what has changed is read
cell_processes.py         processes of a cell on this host, found by host_processes.py and ended
logs.py                   what a cell's programs wrote, attempt after attempt
gaps.py                   cells that never began, as rows of the tables
finding.py                one thing that `mspipeline doctor` looked at

Imports no scheduler but `local`: the others are loaded by name when a site asks for them.

May import: psutil, pyarrow, pydantic, submitit; `backends`, `config`, `errors`, `files`, `jobs.work.certification`,
`models`, `network`, `parallel.lock`, `plugins`, `recipes.catalogue`, `runs`, `tables.schema`, `telemetry`.
"""
