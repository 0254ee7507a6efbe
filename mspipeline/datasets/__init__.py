"""Datasets on disk: which cases a folder holds, how they are dealt to subsets, and phantoms made here.

May import: NumPy, SciPy, pydantic; `config`, `errors`, `files`, `grid`, `images.registry`, `labels`, `plugins`,
`volume`.
"""
