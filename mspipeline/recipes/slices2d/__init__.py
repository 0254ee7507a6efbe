"""Slices of a resampled volume for 2-D networks, as in the 2021 report.

May import: NumPy, pydantic; `backends.base`, `channels`, `config`, `datasets`, `errors`, `files`, `grid`, `labels`,
`models.stored`, `preprocess`, `recipes`, `runs`, `shards`, `transforms.chain`, `volume`.
"""
