"""Ways from a case to samples and back, one folder each: its numbers, its shards, its batches, its predictions.

`base` says what a recipe is, `catalogue` finds them, `scans` is what recipes of brain scans share.

May import: NumPy, SciPy, pydantic; `backends.base`, `backends.registry`, `channels`, `config`, `datasets`, `errors`,
`files`, `grid`, `labels`, `network.graph`, `parallel.deal`, `plugins`, `preprocess`, `runs`, `shards`,
`telemetry.events`, `training`, `volume`.
"""
