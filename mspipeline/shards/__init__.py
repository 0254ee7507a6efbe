"""Shards: one HDF5 file per case, written whole or not at all, a manifest that is written last, and streams of batches.

What is in a file is its recipe's affair.

May import: pydantic; `config`, `datasets.split`, `errors`, `files`, `hdf5`, `labels`, `parallel.lock`, `preprocess`,
`volume`.
"""
