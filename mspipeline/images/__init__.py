"""Image formats, one module a format: what a file's header says, checked field by field, and its voxels as stored.

May import: NumPy, nibabel; `errors`.
"""
