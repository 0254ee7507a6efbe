"""Networks, one builder a file, the catalogue of them, and the network of a run folder.

May import: NumPy; `errors`, `files`, `network`, `plugins`, `runs`.
"""
