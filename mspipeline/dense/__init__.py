"""The exact dense compiler: a patch network run over tiles of a volume, each voxel as if its own patch had been read.

`border_classes` says what a padded convolution sees at a border, `plan` which values a tile needs, `compiler` writes
the graph of a tile, `tiles` cuts a volume, `cost_model` says what pays. May import: NumPy; `errors`, `network`,
`patches`, `volume`.
"""
