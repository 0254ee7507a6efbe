"""Tiles: a volume's candidates dealt to boxes of one size, and the size that fits into a budget of memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mspipeline.dense.compiler import TileProgram, tile_program
from mspipeline.dense.layer_plan import tile_multiples
from mspipeline.errors import ConfigError
from mspipeline.network.graph import Graph
from mspipeline.network.weights import Weights
from mspipeline.patches.candidates import Coordinates
from mspipeline.volume import FloatArray

SIDES = (24, 16, 8)
"""Of tiles, in voxels: the smaller, the more is computed twice around them; above 24 a voxel costs no less (cascade3d,
TensorFlow), and more of a tile lies beside the brain.
"""
OF_LIVE, FIXED_BYTES = 2.5, 128 * 2**20
"""What a tile makes a process grow by, at most: 2.5 times the results that must be held at once, and 128 MiB.

Measured with cascade3d at 16 and 32 voxels: 1.7 to 2.5 times, of which JAX most; the rest is the compiled program.
"""


@dataclass(frozen=True)
class Tile:
    """A box and the candidates in it. first: (3,) its first voxel. members: places in the array of candidates."""

    first: npt.NDArray[np.int64]
    members: npt.NDArray[np.int64]


def deal(candidates: Coordinates, side: int) -> list[Tile]:
    """Tiles of side^3 voxels that hold all candidates, those with the most first; a tile without any is left out.

    candidates: (N, 3). Tiles begin at the smallest coordinate along each axis, and may end beyond the volume.
    """
    if not len(candidates):
        return []
    low = candidates.min(axis=0)
    cells, owner = np.unique((candidates - low) // side, axis=0, return_inverse=True)
    members = np.split(np.argsort(owner, kind="stable"), np.cumsum(np.bincount(owner))[:-1])
    found = [Tile(low + side * cell, own) for cell, own in zip(cells, members, strict=True)]
    return sorted(found, key=lambda tile: -len(tile.members))


def cut(image: FloatArray, low: npt.NDArray[np.int64], high: npt.NDArray[np.int64]) -> FloatArray:
    """The box of voxels from `low` up to `high`, (3,) each; what lies beyond the volume, (X, Y, Z, C), is 0."""
    shape = np.array(image.shape[:3])
    box = np.zeros((*(high - low), image.shape[3]), np.float32)
    inside = np.maximum(low, 0), np.minimum(high, shape)
    if (inside[0] < inside[1]).all():
        source, target = (
            tuple(slice(*each) for each in zip(*(corner - origin for corner in inside), strict=True))
            for origin in (0 * low, low)
        )
        box[target] = image[source]
    return box


def peak_bytes(program: TileProgram) -> int:
    """By how much a process grows, at most, in which tiles of this program are computed."""
    return int(OF_LIVE * program.live_bytes) + FIXED_BYTES


def fitting_program(graph: Graph, weights: Weights, memory_budget_mb: int) -> TileProgram:
    """The dense form on the largest tiles whose peak memory stays within the budget.

    Raises ConfigError where those of the smallest do not, ShapeError where the network has no dense form.
    """
    multiple = math.lcm(*tile_multiples(graph))
    for side in sorted({-(-side // multiple) * multiple for side in SIDES}, reverse=True):
        program = tile_program(graph, weights, (side,) * 3)
        needed_mb = -(-peak_bytes(program) // 2**20)
        if needed_mb <= memory_budget_mb:
            return program
    raise ConfigError(
        f"dense inference of {graph.name}: tiles of {side}^3 voxels, the smallest, need {needed_mb} MB, the budget is "
        f"{memory_budget_mb} MB; give --memory-budget-mb {needed_mb} or more, or use --inference patches"
    )
