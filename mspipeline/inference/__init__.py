"""From a network's outputs on slices or windows to a volume on the scan's grid.

May import: NumPy, SciPy; `backends.base`, `backends.registry`, `config`, `dense`, `errors`, `files`, `hdf5`,
`labels`, `models`, `network`, `patches`, `preprocess`, `runs`, `training.checkpoint`, `volume`.
"""
