"""Training without knowing a framework: the loop, the scores of an epoch, checkpoints, the losses' reference.

May import: h5py, NumPy; `backends.base`, `backends.process_group`, `config`, `errors`, `files`, `labels`, `metrics`,
`network`, `runs`, `telemetry`.
"""
