"""Patches around voxels for a cascade of two 3-D networks (Valverde et al. 2017).

May import: NumPy, pydantic; `backends.base`, `backends.registry`, `channels`, `config`, `datasets`, `dense`, `errors`,
`files`, `grid`, `hdf5`, `labels`, `models.stored`, `network`, `patches`, `preprocess`, `recipes`, `runs`, `shards`,
`training`, `volume`.
"""
