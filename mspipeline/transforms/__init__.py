"""Transforms of an image and its labels for training, one file a transform, each with random numbers of its own.

Spatial ones turn image and labels alike, the rest change the image alone. A new transform is its file and a line in
registry.py. Images are (*spatial, C) float32, labels (*spatial) or (*spatial, 1) of any type.
May import: NumPy, pydantic; `config`, `errors`, `plugins`.
"""
