"""Cases of `patches3d` small enough to check by hand, and their shards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.patches.sampling import PatchSelection, first_stage
from mspipeline.preprocess.brain import BrainOrigin
from mspipeline.preprocess.intensity import Statistics
from mspipeline.recipes.patches3d.prepare import PatchCase
from mspipeline.recipes.patches3d.schema import PatchSchema
from mspipeline.recipes.patches3d.shard import PatchEntry, case_voxels, write_patch_shard
from mspipeline.shards.writer import Source
from mspipeline.volume import ScanGrid

SHAPE = (9, 8, 7)
GRID = ScanGrid(SHAPE, np.diag([1.0, 1.0, 2.0, 1.0]), 1, 2)
SIZE = (5, 5, 5)
SOURCES = {"FLAIR": Source("sub-00/anat/sub-00_FLAIR.nii.gz", "ab"), "lesions": Source("m.nii.gz", "cd")}
LESIONS = ((0, 0, 0), (8, 7, 6), (4, 4, 3), (4, 4, 4))
"""Two of them in corners of the volume, so that their patches reach beyond it."""


def prepared(k: int = 0, *, lesions: bool = True, **keys: Any) -> PatchCase:
    """Case k. Channel 0 is 1 at lesions, 0.6 at 40 other candidates, 0 elsewhere; channel 1 differs in each voxel."""
    recipe = PatchSchema(**{"modalities": ("FLAIR", "T1w"), "patch_size": SIZE, **keys})
    random = np.random.default_rng(k)
    flair = np.zeros(SHAPE, np.float32)
    others = np.setdiff1d(np.arange(flair.size), [np.ravel_multi_index(place, SHAPE) for place in LESIONS])
    flair.reshape(-1)[random.permutation(others)[:40]] = 0.6
    truth = np.zeros(SHAPE, bool)
    if lesions:
        truth[tuple(np.transpose(LESIONS))] = True
        flair[truth] = 1
    own = np.arange(1, 1 + flair.size, dtype=np.float32).reshape(SHAPE) + 1000 * k
    image = np.stack([flair, own], axis=-1)
    intensity = {"FLAIR": Statistics(10.0, 2.0), "T1w": Statistics(20.0, 3.0)}
    brain = BrainOrigin(source="mask", share=1.0, border=1.0)
    return PatchCase(recipe, image, np.ones(SHAPE, bool), truth, GRID, brain, intensity)


@dataclass(frozen=True)
class Prepared:
    """A folder of patch shards, the cases and the first stage's voxels of each."""

    folder: Path
    entries: list[PatchEntry]
    cases: list[PatchCase]
    selection: dict[str, PatchSelection]


def prepare(folder: Path, cases: int, **keys: Any) -> Prepared:
    """Shards of cases 0, 1, ...; case 2 has no lesion."""
    made = [prepared(k, lesions=k != 2, **keys) for k in range(cases)]
    entries = [write_patch_shard(folder, f"sub-{k:02d}", case, SOURCES) for k, case in enumerate(made)]
    selection = {
        entry.case: first_stage(case_voxels(case), case=entry.case, seed=0)
        for entry, case in zip(entries, made, strict=True)
    }
    return Prepared(folder, entries, made, selection)


def plain_patch(image: npt.NDArray[np.float32], centre: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """The SIZE voxels around one, c - 2 to c + 2 along each axis, 0 beyond the volume; by NumPy alone."""
    padded = np.pad(image, [(2, 2), (2, 2), (2, 2), (0, 0)])
    x, y, z = centre
    return padded[x : x + 5, y : y + 5, z : z + 5]
