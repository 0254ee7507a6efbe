"""Shards: one HDF5 file per case, written whole or not at all, a manifest that is written last, and the reader.

May import: NumPy, h5py; `errors`, `config`, `files`, `volume`, `datasets.split`, `preprocess`, `patches`,
`telemetry.allocation`.
"""
