"""The Arrow schemas of the collected tables; those of a job's streams are in `telemetry.schema`.

May import: pyarrow; `labels`, `metrics.scores`, `telemetry.schema`.
"""
