"""Run folders to the tables that reports and gates read.

`merge` joins samples with the phases of their job, `tables` walks the run folders and writes one Parquet file a table.
May import: NumPy, pyarrow; `errors`, `files`, `runs`, `tables`, `telemetry`.
"""
