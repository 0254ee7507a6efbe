"""PyEDDL: it computes forward and backward, the updates are ours (decision 0007).

backend.py  the adapter. library.py: loading, threads, noise. layers.py: operation -> layers, and what it cannot do
network.py, races.py  the network built, operations that race

May import: NumPy; `backends.base`, `backends.dropout_masks`, `errors`, `files`, `losses`, `network`, `optimizers`.
PyEDDL itself is imported by `library.py`, when a network is built.
"""
