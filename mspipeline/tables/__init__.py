"""The Arrow schemas of everything that is stored as a table, with their versions.

May import: pyarrow; `metrics.scores`.
"""
