"""Networks, one builder a file, the catalogue of them, and the network of a run folder.

May import: NumPy; `config`, `errors`, `files`, `network`, `runs`.
"""
