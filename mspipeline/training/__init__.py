"""Training without knowing a framework: the loop, the scores of an epoch, checkpoints, the losses' reference.

May import: `backends.base`, `shards`, `metrics`, `telemetry`, and all that lies below them.
"""
