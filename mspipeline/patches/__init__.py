"""Patches of 3-D volumes: which voxels to cut around, and the cut itself at memory speed.

May import: NumPy, numba; `errors`, `volume`.
"""
