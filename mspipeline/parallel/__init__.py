"""Work that several processes share, on one host or on many: which takes what, and which may write to a folder.

`launchers` says how this process was started, `ranks` shares work among MPI ranks, `deal` decides who takes what,
`lock` holds a folder. mpi4py is imported when ranks are there. May import: mpi4py; `errors`, `telemetry.allocation`.
"""
