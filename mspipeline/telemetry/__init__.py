"""What is measured while a job runs, and how its rows are kept.

`schema` names the columns, `shard` keeps rows in crash-tolerant Arrow streams, `cpu` and `gpu` take readings, `procfs`
asks the system, `allocation` says what share of the machine a process has, `sampler` writes readings on a schedule,
`events` marks the phases of a job. May import: psutil, pyarrow, pynvml; `errors`.
"""
