"""Training without knowing a framework: the loop, the scores of an epoch, checkpoints, the losses' reference.

May import: NumPy; `backends.base`, `backends.process_group`, `config`, `errors`, `files`, `hdf5`, `labels`, `metrics`,
`network`, `runs`, `telemetry`.
"""
