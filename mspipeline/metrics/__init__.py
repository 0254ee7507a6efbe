"""Scores of a prediction against a truth. May import: NumPy, SciPy; nothing of the suite but `errors`."""
