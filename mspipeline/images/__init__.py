"""Image formats, one module a format: where a file says that its voxels lie, checked, and its voxels as stored.

A new format is its file and a line in registry.py.
May import: NumPy, nibabel; `errors`, `files`, `grid`, `plugins`.
"""
