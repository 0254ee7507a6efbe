"""The processes that jobs run in: launch, supervise, stop, hold a run, several processes that train together.

May import: psutil; `backends.process_group`, `config`, `console`, `errors`, `files`, `jobs.job`, `jobs.registry`,
`parallel.lock`, `runs`, `startup`, `telemetry`.
"""
