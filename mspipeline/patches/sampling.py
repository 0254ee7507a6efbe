"""Sampling: around which voxels of a case patches are cut, in either stage of a cascade (Valverde et al. 2017).

Every draw depends on the seed and the case's id alone: cases may come in any order, or be taken away.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mspipeline.errors import ShapeError

Voxels = npt.NDArray[np.int32]
Labels = npt.NDArray[np.uint8]
Scores = npt.NDArray[np.float32]

HARD_ABOVE = 0.5
"""The first stage's probability above which a voxel is one of the second's hard negatives."""
BRIGHT_ABOVE = 2.0
"""Where no voxel passes, those whose normalised FLAIR is above this take their place."""


@dataclass(frozen=True)
class CaseVoxels:
    """The voxels of a case that may be lesion, and those that are; not every lesion voxel is a candidate.

    candidates: (K, 3). labels: (K,), 1 where a candidate is lesion. lesions: (L, 3). K and L may be 0.
    """

    candidates: Voxels
    labels: Labels
    lesions: Voxels


@dataclass(frozen=True)
class PatchSelection:
    """Patches of one case. centres: (N, 3) voxels. labels: (N,), 1 where the centre is lesion. N may be 0."""

    centres: Voxels
    labels: Labels

    def __post_init__(self) -> None:
        if self.centres.shape != (len(self.labels), 3):
            raise ShapeError(f"centres of shape {self.centres.shape} with {len(self.labels)} labels; expected (N, 3)")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: npt.NDArray[np.intp]) -> PatchSelection:
        """The patches at `rows`, (M,), in their order."""
        return PatchSelection(self.centres[rows], self.labels[rows])


def first_stage(
    voxels: CaseVoxels, *, case: str, seed: int, negatives: float = 1.0, count: int | None = None
) -> PatchSelection:
    """All lesion voxels, and candidates without lesion drawn without replacement.

    negatives: how many, as a multiple of the lesion voxels: 1 is balanced, as published. count: exactly so many
    instead, the same for every case ("unbalanced"). Where there are fewer, all are taken.
    A case without lesions gives no patch, as published: training leaves it out.
    """
    pool = voxels.candidates[voxels.labels == 0]
    return _select(voxels.lesions, pool, negatives, count, _generator(seed, case, "first stage"))


def hard_negatives(
    voxels: CaseVoxels,
    probability: Scores,
    intensity: Scores,
    *,
    case: str,
    seed: int,
    above: float = HARD_ABOVE,
    bright_above: float = BRIGHT_ABOVE,
    negatives: float = 1.0,
    count: int | None = None,
) -> PatchSelection:
    """All lesion voxels, and of the voxels that the first stage took for lesion, those that are none.

    probability, intensity: (K,), the first stage's and the normalised FLAIR at each candidate. Where no candidate at
    all is above `above`, those brighter than `bright_above` are drawn from instead. The rest is as in `first_stage`.
    Raises ShapeError where there is not one number a candidate.
    """
    if probability.shape != voxels.labels.shape or intensity.shape != voxels.labels.shape:
        raise ShapeError(
            f"{case}: {probability.shape} probabilities and {intensity.shape} intensities; expected one for each of "
            f"{len(voxels.labels)} candidates"
        )
    passed = probability > np.float32(above)
    if not passed.any():
        passed = intensity > np.float32(bright_above)
    pool = voxels.candidates[passed & (voxels.labels == 0)]
    return _select(voxels.lesions, pool, negatives, count, _generator(seed, case, "second stage"))


def held_out(
    selection: Mapping[str, PatchSelection], fraction: float, seed: int
) -> tuple[dict[str, PatchSelection], dict[str, PatchSelection]]:
    """The patches to train on and those to validate on: of each case `fraction` (published: 0.25), drawn at random.

    fraction: in [0, 1), rounded to the nearest number of patches. Raises ValueError outside.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction {fraction}; expected at least 0 and below 1")
    train, held = {}, {}
    for case, patches in selection.items():
        order = _generator(seed, case, "held out").permutation(len(patches))
        kept = len(patches) - math.floor(fraction * len(patches) + 0.5)
        train[case], held[case] = patches.take(np.sort(order[:kept])), patches.take(np.sort(order[kept:]))
    return train, held


def _select(
    lesions: Voxels, pool: Voxels, negatives: float, count: int | None, generator: np.random.Generator
) -> PatchSelection:
    """Positives first, then negatives in the order of the pool."""
    wanted = (math.floor(negatives * len(lesions) + 0.5) if count is None else count) if len(lesions) else 0
    rows = np.sort(generator.permutation(len(pool))[:wanted])
    centres = np.concatenate([lesions, pool[rows]])
    return PatchSelection(centres, np.repeat(np.array([1, 0], np.uint8), [len(lesions), len(rows)]))


def _generator(seed: int, case: str, purpose: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{purpose}\0{case}".encode()).digest()
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, int.from_bytes(digest[:16], "big")])))
