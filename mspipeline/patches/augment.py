"""Augmentation: patches turned, mirrored and made brighter or darker, as published and more richly.

A batch is never changed: a new one is returned. (nicMSlesions and its ports wrote into the training array itself, so
that changes piled up from epoch to epoch, and a quarter turn meant as a step on the way became the only change.)
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from mspipeline.errors import ConfigError
from mspipeline.volume import FloatArray

Move = tuple[tuple[int, int, int], tuple[bool, bool, bool]]
"""Which axis of the patch becomes x, y, z of the result, and which of these is then mirrored."""


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a patch.

    moves: one of them is drawn for a patch; those that would change a patch's shape are left out, so that the
        quarter turns of a cube become the half turns of a box. share: of a batch, the part that is moved.
    scale, shift: a channel is multiplied by 1 +- scale and 0 +- shift is added (of its standard deviation), both drawn
        uniformly for each patch and channel; voxels that are 0, background and what lies beyond the scan, stay 0.
    """

    moves: tuple[Move, ...]
    share: float = 1.0
    scale: float = 0.0
    shift: float = 0.0

    def __call__(self, images: FloatArray, generator: np.random.Generator) -> FloatArray:
        """(N, X, Y, Z, C) -> a new array of its shape."""
        result = images.copy()
        size = images.shape[1:4]
        moves = [move for move in self.moves if tuple(size[axis] for axis in move[0]) == size]
        chosen = generator.permutation(len(images))[: int(self.share * len(images))]
        drawn = generator.integers(len(moves), size=len(chosen))
        for number, move in enumerate(moves):
            rows = chosen[drawn == number]
            if len(rows):
                result[rows] = moved(images[rows], move)
        if self.scale or self.shift:
            self._change_intensities(result, generator)
        return result

    def _change_intensities(self, images: FloatArray, generator: np.random.Generator) -> None:
        """In place. One number a patch and channel, written out for a row of voxels: NumPy is slow on 3 at a time."""
        N, _, _, Z, C = images.shape
        rows = images.reshape(N, -1, Z * C)
        background = rows == 0
        rows *= np.tile(generator.uniform(1 - self.scale, 1 + self.scale, (N, 1, C)).astype(np.float32), Z)
        rows += np.tile(generator.uniform(-self.shift, self.shift, (N, 1, C)).astype(np.float32), Z)
        rows[background] = 0


def moved(images: FloatArray, move: Move) -> FloatArray:
    """(N, X, Y, Z, C) with its axes exchanged, then mirrored; a view."""
    (x, y, z), mirrored = move
    turned = images.transpose(0, x + 1, y + 1, z + 1, 4)
    steps = [slice(None, None, -1 if mirror else 1) for mirror in mirrored]
    return turned[:, steps[0], steps[1], steps[2]]


KEPT = (0, 1, 2)
HALF_TURN: Move = (KEPT, (False, True, True))
MIRRORED: Move = (KEPT, (False, False, True))
HALF_TURN_MIRRORED: Move = (KEPT, (False, True, False))

MIRRORS: tuple[Move, ...] = tuple((KEPT, (x, y, z)) for x, y, z in itertools.product((False, True), repeat=3))
SYMMETRIES: tuple[Move, ...] = tuple(
    ((a, b, c), mirrors) for a, b, c in itertools.permutations(KEPT) for _, mirrors in MIRRORS
)
"""The 48 of a cube, the unchanged patch first: 24 turns, and their mirror images."""

AUGMENTATIONS = {
    "none": None,
    # Valverde et al. 2017, nicMSlesions: half of a batch, each half-turned in the plane of the last two axes, mirrored
    # along the last axis, or both.
    "published": Augmentation((HALF_TURN, MIRRORED, HALF_TURN_MIRRORED), share=0.5),
    "mirrors": Augmentation(MIRRORS),
    "symmetries": Augmentation(SYMMETRIES),
    "rich": Augmentation(SYMMETRIES, scale=0.1, shift=0.1),
}


def augmentation(name: str) -> Augmentation | None:
    """One of AUGMENTATIONS by its name. Raises ConfigError where there is none."""
    if name not in AUGMENTATIONS:
        raise ConfigError(f"{name}: no such augmentation; valid: {', '.join(AUGMENTATIONS)}")
    return AUGMENTATIONS[name]
