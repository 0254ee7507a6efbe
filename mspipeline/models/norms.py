"""Batch normalisation as the networks' first implementations have it: momentum kept a step, and epsilon."""

from __future__ import annotations

from mspipeline.network.ops import BatchNorm

KERAS_NORM = BatchNorm(momentum=0.99, epsilon=1e-3)
LASAGNE_NORM = BatchNorm(momentum=0.9, epsilon=1e-4)
