"""The recipe of patches: every number between scans and the patches a network sees, on the scans' own grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import PositiveInt, field_validator, model_validator

from mspipeline.config import Strict
from mspipeline.errors import DatasetError, VolumeError
from mspipeline.files import sha256_data
from mspipeline.preprocess.intensity import normalise, statistics
from mspipeline.preprocess.recipe import require_same_grid
from mspipeline.volume import BoolArray, FloatArray, ScanGrid, load_mask, load_volume


class PatchRecipe(Strict):
    """Scans to a normalised volume of all modalities, its candidates, and patches around them.

    modalities: the channels, in order. patch_size: voxels along each axis of a patch.
    spread: what an image is divided by once the mean of its brain is subtracted: the standard deviation of its
        "brain", or of the whole "volume", background included, as the Keras versions of nicMSlesions did.
    brain: as in `slices2d`: the case's mask where there is one ("auto"), always ("mask"), or the non-zero voxels.
    zero_outside_brain: whether the background is 0 afterwards, or what normalising makes of 0 (nicMSlesions).
    candidates_of, candidates_above: a brain voxel is a candidate where this modality, normalised, is above this number.
    """

    kind: Literal["patches3d"] = "patches3d"
    modalities: tuple[str, ...] = ("FLAIR", "T1w", "T2w")
    patch_size: tuple[PositiveInt, PositiveInt, PositiveInt] = (11, 11, 11)
    spread: Literal["brain", "volume"] = "brain"
    brain: Literal["auto", "mask", "nonzero"] = "auto"
    zero_outside_brain: bool = True
    candidates_of: str = "FLAIR"
    candidates_above: float = 0.5

    @field_validator("modalities")
    @classmethod
    def _named_once(cls, modalities: tuple[str, ...]) -> tuple[str, ...]:
        if not modalities or len(set(modalities)) != len(modalities):
            raise ValueError("expected at least one modality, each named once")
        return modalities

    @model_validator(mode="after")
    def _candidates_are_seen(self) -> PatchRecipe:
        if self.candidates_of not in self.modalities:
            raise ValueError(f"candidates_of must be one of the modalities, {', '.join(self.modalities)}")
        return self

    @property
    def hash(self) -> str:
        """SHA-256 of every key and value."""
        return sha256_data(self.model_dump(mode="json"))

    @property
    def candidates_channel(self) -> int:
        """The channel that candidates are taken from."""
        return self.modalities.index(self.candidates_of)

    @property
    def image_shape(self) -> tuple[int, int, int, int]:
        """(X, Y, Z, C) of a patch."""
        return (*self.patch_size, len(self.modalities))


@dataclass(frozen=True)
class PatchCase:
    """One case, normalised. image: (X, Y, Z, C) float32, C-contiguous, on the canonical axes of `grid`.

    brain: (X, Y, Z), the brain voxels of the modality that candidates are taken from. Whatever a scan holds outside its
    brain (a skull, where there is a mask) was taken for 0.
    """

    image: FloatArray
    brain: BoolArray
    grid: ScanGrid


def apply_files(recipe: PatchRecipe, scans: Mapping[str, Path], brain: Path | None = None) -> PatchCase:
    """Read and normalise the scans of one case.

    scans: modality -> file, at least those the recipe names. brain: mask, where the case has one.
    Raises DatasetError where the grids differ or a brain mask is wanted and absent; VolumeError as `load_volume`, and
    where an image is constant or has no brain.
    """
    first = recipe.modalities[0]
    if recipe.brain == "mask" and brain is None:
        raise DatasetError(
            f"{scans[first]}: the recipe sets brain = 'mask' but the case has no brain mask; "
            "add derivatives/*/.../*_desc-brain_mask.nii.gz or set brain = 'auto'"
        )
    grid: ScanGrid | None = None
    mask = load_mask(brain) if brain is not None and recipe.brain != "nonzero" else None
    image = np.empty(0, np.float32)
    inside = np.empty(0, bool)
    for channel, modality in enumerate(recipe.modalities):
        volume = load_volume(scans[modality])
        if grid is None:
            grid = volume.grid
            image = np.empty((*volume.data.shape, len(recipe.modalities)), np.float32)
            if mask is not None:
                require_same_grid(str(scans[first]), grid, str(brain), mask.grid)
        require_same_grid(str(scans[first]), grid, str(scans[modality]), volume.grid)
        voxels = volume.data != 0 if mask is None else mask.data
        stats = statistics(volume.data, voxels, name=str(scans[modality]))
        stripped = np.where(voxels, volume.data, np.float32(0))
        scale = stats.std if recipe.spread == "brain" else float(stripped.std(dtype=np.float64))
        image[..., channel] = normalise(
            stripped, voxels, shift=stats.mean, scale=scale, zero_outside=recipe.zero_outside_brain
        )
        if modality == recipe.candidates_of:
            inside = voxels
    if grid is None:
        raise VolumeError("the recipe names no modality")
    return PatchCase(image, inside, grid)
