"""Shards: one HDF5 file per case, written whole or not at all, a manifest that is written last, and the reader.

May import: h5py, mpi4py, NumPy, pydantic; `config`, `datasets.split`, `errors`, `files`, `patches`, `preprocess`,
`telemetry.allocation`, `volume`.
"""
