"""The recipe of patches: every number between scans and the patches a network sees, on the scans' own grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import PositiveInt, ValidationInfo, field_validator, model_validator

from mspipeline.config import Strict
from mspipeline.errors import DatasetError, VolumeError
from mspipeline.files import sha256_data
from mspipeline.preprocess.brain import BrainChoice, BrainOrigin, BrainSource, brain_origin
from mspipeline.preprocess.intensity import Statistics, normalise, statistics
from mspipeline.preprocess.lesion_counts import LesionCounts, count
from mspipeline.preprocess.resample_onto import Steps, case_reader, require_reference
from mspipeline.preprocess.spatial import require_same_grid
from mspipeline.preprocess.stored_lesions import counts
from mspipeline.volume import BoolArray, FloatArray, ScanGrid


class PatchRecipe(Strict):
    """Scans to a normalised volume of all modalities, its candidates, and patches around them.

    Each key is explained in `patches3d.toml` too, whose values are the defaults here.

    modalities: the channels, in order. patch_size: voxels along each axis of a patch.
    spread: what an image is divided by once the mean of its brain is subtracted: the standard deviation of its
        "brain", or of the whole "volume", background included, as the Keras versions of nicMSlesions did.
    brain: as in `slices2d`, see `preprocess.brain`.
    zero_outside_brain: whether the background is 0 afterwards, or what normalising makes of 0 (nicMSlesions).
    candidates_of, candidates_above: a brain voxel is a candidate where this modality, normalised, is above this number.
    mask_threshold: as in `slices2d`. compression: inside the shards.
    resample_to: as in `slices2d`.
    """

    kind: Literal["patches3d"] = "patches3d"
    modalities: tuple[str, ...] = ("FLAIR", "T1w", "T2w")
    patch_size: tuple[PositiveInt, PositiveInt, PositiveInt] = (11, 11, 11)
    spread: Literal["brain", "volume"] = "brain"
    brain: BrainChoice = "auto"
    zero_outside_brain: bool = True
    candidates_of: str = "FLAIR"
    candidates_above: float = 0.5
    mask_threshold: float | None = None
    compression: Literal["none", "lzf", "gzip"] = "lzf"
    resample_to: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_stored_patches(cls, keys: Any) -> Any:
        """Shards of version 0.1 name two keys of patches stored beside the volume; nothing reads those patches."""
        stored = {"materialise", "materialised_negatives"}
        if isinstance(keys, dict) and stored <= keys.keys():
            return {key: value for key, value in keys.items() if key not in stored}
        return keys

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

    @field_validator("resample_to")
    @classmethod
    def _reference_is_read(cls, reference: str | None, info: ValidationInfo) -> str | None:
        return require_reference(reference, info.data.get("modalities", ()))

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
    brain (a skull, where there is a mask) was taken for 0. lesions: (X, Y, Z), None where the case has no lesion mask.
    brain_origin: where the brain comes from. intensity: modality -> statistics of the brain before normalising.
    counts: of the lesions, as drawn and on the scan's grid; None where there is no lesion mask.
    """

    recipe: PatchRecipe
    image: FloatArray
    brain: BoolArray
    lesions: BoolArray | None
    grid: ScanGrid
    brain_origin: BrainOrigin
    intensity: Mapping[str, Statistics]
    counts: LesionCounts | None = None

    @property
    def brain_source(self) -> BrainSource:
        return self.brain_origin.source


def apply_files(
    recipe: PatchRecipe,
    scans: Mapping[str, Path],
    brain: Path | None = None,
    *,
    lesions: Path | None = None,
    routes: Mapping[str, Steps] | None = None,
    strays: Mapping[str, str] | None = None,
) -> PatchCase:
    """Read and normalise the scans of one case.

    scans: modality -> file, at least those the recipe names. brain, lesions: masks, where the case has them.
    routes: transforms from the space of the recipe's `resample_to` to that of a file; without effect where it is unset.
    strays: files whose names declare a space to which no transform leads.
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
    reader = case_reader(recipe.resample_to, recipe.modalities, scans, routes, strays)
    mask = reader.mask("brain", brain) if brain is not None and recipe.brain != "nonzero" else None
    image = np.empty(0, np.float32)
    inside = np.empty(0, bool)
    intensity: dict[str, Statistics] = {}
    for channel, modality in enumerate(recipe.modalities):
        volume = reader.volume(modality, scans[modality])
        if grid is None:
            grid = volume.grid
            image = np.empty((*volume.data.shape, len(recipe.modalities)), np.float32)
            if mask is not None:
                require_same_grid(str(scans[first]), grid, str(brain), mask.grid)
        require_same_grid(str(scans[first]), grid, str(scans[modality]), volume.grid)
        voxels = volume.data != 0 if mask is None else mask.data
        stats = intensity[modality] = statistics(volume.data, voxels, name=str(scans[modality]))
        stripped = np.where(voxels, volume.data, np.float32(0))
        scale = stats.std if recipe.spread == "brain" else float(stripped.std(dtype=np.float64))
        image[..., channel] = normalise(
            stripped, voxels, shift=stats.mean, scale=scale, zero_outside=recipe.zero_outside_brain
        )
        if modality == recipe.candidates_of:
            inside = voxels
    if grid is None:
        raise VolumeError("the recipe names no modality")
    truth = lesion_counts = None
    if lesions is not None:
        truth, placing = reader.placed_mask("lesions", lesions, threshold=recipe.mask_threshold)
        require_same_grid(str(scans[first]), grid, str(lesions), truth.grid)
        lesion_counts = counts(count(truth.data, grid.voxel_ml), placing)
    return PatchCase(
        recipe,
        image,
        inside,
        None if truth is None else truth.data,
        grid,
        brain_origin("nonzero" if mask is None else "mask", inside, None if truth is None else truth.data),
        intensity,
        lesion_counts,
    )
