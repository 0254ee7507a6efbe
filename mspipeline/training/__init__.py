"""Training without knowing a framework: the loop, the scores of an epoch, checkpoints, what a collapse is.

May import: NumPy; `backends.base`, `backends.process_group`, `channels`, `config`, `errors`, `files`, `hdf5`, `labels`,
`losses`, `metrics`, `network`, `optimizers`, `runs`, `tables`, `telemetry`.
"""
