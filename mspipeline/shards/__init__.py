"""Shards: one HDF5 file per case, written whole or not at all, a manifest that is written last, and the reader.

May import: NumPy, pydantic; `config`, `datasets.split`, `errors`, `files`, `hdf5`, `parallel.lock`, `patches`,
`preprocess`, `volume`.
"""
