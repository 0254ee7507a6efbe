"""Scores of a prediction against a truth: overlap, lesion by lesion, surface distances.

May import: NumPy, SciPy, connected-components-3d; `errors`, `plugins`.
"""
