"""The recipe: every number between a scan and what a network sees, stored and hashed with the shards.

The same code prepares training cases (with lesion masks) and the scans of a prediction (without).
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, PositiveInt, ValidationInfo, field_validator

from mspipeline.config import Strict, parse, read_config
from mspipeline.errors import ConfigError, DatasetError, nearest
from mspipeline.files import sha256_data
from mspipeline.preprocess.brain import BrainChoice, brain_origin
from mspipeline.preprocess.intensity import Statistics, normalise, statistics
from mspipeline.preprocess.lesion_counts import Placing
from mspipeline.preprocess.patches3d import PatchRecipe
from mspipeline.preprocess.prepared import PreparedCase
from mspipeline.preprocess.resample_onto import Steps, case_reader, require_reference
from mspipeline.preprocess.spatial import coordinates, require_same_grid, to_slices
from mspipeline.preprocess.stored_lesions import slice_counts
from mspipeline.volume import BoolArray, FloatArray, Volume

BUILT_IN = Path(__file__).parent
Order = Literal[0, 1]


class Recipe(Strict):
    """Scans to normalised slices. Each key is explained in `slices2d.toml`, whose values are the defaults here."""

    kind: Literal["slices2d"] = "slices2d"
    modalities: tuple[str, ...] = ("FLAIR",)
    size: tuple[PositiveInt, PositiveInt, PositiveInt] = (256, 256, 256)
    image_order: Order = 1
    mask_order: Order = 0
    axis: Literal[0, 1, 2] = 2
    normalisation: Literal["zscore", "none"] = "zscore"
    brain: BrainChoice = "auto"
    zero_outside_brain: bool = True
    drop_slices_without_brain: bool = False
    mask_threshold: float | None = None
    compression: Literal["none", "lzf", "gzip"] = "lzf"
    resample_to: str | None = None

    @field_validator("modalities")
    @classmethod
    def _named_once(cls, modalities: tuple[str, ...]) -> tuple[str, ...]:
        if not modalities or len(set(modalities)) != len(modalities):
            raise ValueError("expected at least one modality, each named once")
        return modalities

    @field_validator("resample_to")
    @classmethod
    def _reference_is_read(cls, reference: str | None, info: ValidationInfo) -> str | None:
        return require_reference(reference, info.data.get("modalities", ()))

    @property
    def hash(self) -> str:
        """SHA-256 of every key and value; of `resample_to` where it is set: it came later than the first shards."""
        unset = {"resample_to"} if self.resample_to is None else set()
        return sha256_data(self.model_dump(mode="json", exclude=unset))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of a slice."""
        height, width = (n for axis, n in enumerate(self.size) if axis != self.axis)
        return (height, width, len(self.modalities))


class _Kind(Strict):
    """What a recipe's file makes, read before the rest of it; a file that does not say makes slices."""

    model_config = ConfigDict(extra="ignore")
    kind: Literal["slices2d", "patches3d"] = "slices2d"


def load_recipe(name_or_path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe | PatchRecipe:
    """A built-in recipe by name or one in a TOML file; keys of `overrides` replace those of the file.

    Raises ConfigError where there is no such recipe, or a key or value does not fit.
    """
    text = str(name_or_path)
    built_in = {path.stem: path for path in BUILT_IN.glob("*.toml")}
    if text not in built_in and not Path(text).is_file():
        raise ConfigError(f"{text}: no such recipe, neither a file nor built in; {nearest(text, list(built_in))}")
    path = built_in.get(text, Path(text))
    schema: type[Recipe | PatchRecipe] = PatchRecipe if read_config(path, _Kind).kind == "patches3d" else Recipe
    recipe: Recipe | PatchRecipe = read_config(path, schema)
    if not overrides:
        return recipe
    return parse({**recipe.model_dump(), **overrides}, schema, where=f"recipe {text} with its overrides")


def load_slices_recipe(name_or_path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """`load_recipe` where slices are needed. Raises ConfigError as it does, and where the recipe makes patches."""
    recipe = load_recipe(name_or_path, overrides)
    if isinstance(recipe, PatchRecipe):
        raise ConfigError(f"{name_or_path}: a recipe of patches, expected one of slices, such as slices2d")
    return recipe


def apply(
    recipe: Recipe,
    scans: Mapping[str, Volume],
    brain: Volume | None = None,
    *,
    lesions: Volume | None = None,
    files: Mapping[str, Path] | None = None,
    placing: Placing | None = None,
) -> PreparedCase:
    """Normalise the scans of one case over its brain voxels, ready to be cut into slices.

    scans: modality -> image, at least those the recipe names. brain, lesions: bool masks.
    files: of the modalities, "brain" and "lesions", for error lines; a modality's own name where absent.
    placing: what became of the lesion mask on its way to this grid, where it was drawn on another.
    Raises DatasetError where a modality is missing, the grids differ, or the recipe wants a brain mask and there is
    none; VolumeError where an image is constant or its brain empty.
    """
    names = {key: str((files or {}).get(key, key)) for key in (*scans, "brain", "lesions")}
    if missing := [modality for modality in recipe.modalities if modality not in scans]:
        raise DatasetError(f"no {' and no '.join(missing)} among {', '.join(scans) or 'no scans'}; the recipe needs it")
    reference = recipe.modalities[0]
    grid = scans[reference].grid
    others = {key: scans[key] for key in recipe.modalities[1:]}
    others |= {key: volume for key, volume in (("brain", brain), ("lesions", lesions)) if volume is not None}
    for key, volume in others.items():
        require_same_grid(names[reference], grid, names[key], volume.grid)
    if recipe.brain == "mask" and brain is None:
        raise DatasetError(
            f"{names[reference]}: the recipe sets brain = 'mask' but the case has no brain mask; "
            "add derivatives/*/.../*_desc-brain_mask.nii.gz or set brain = 'auto'"
        )
    use_mask = brain is not None and recipe.brain != "nonzero"
    prepared: dict[str, FloatArray] = {}
    intensity: dict[str, Statistics] = {}
    has_brain = np.zeros(grid.canonical_shape[recipe.axis], bool)
    for modality in recipe.modalities:
        # Slice axis first and contiguous: slices are then resampled from memory in the order they are written.
        image = to_slices(scans[modality].data, recipe.axis)
        voxels = to_slices(brain.data, recipe.axis) if use_mask and brain is not None else image != 0
        stats = statistics(image, voxels, name=names[modality])
        shift, scale = (stats.mean, stats.std) if recipe.normalisation == "zscore" else (0.0, 1.0)
        values = normalise(image, voxels, shift=shift, scale=scale, zero_outside=recipe.zero_outside_brain)
        prepared[modality] = np.moveaxis(values, 0, recipe.axis)  # (S,H,W) -> (X,Y,Z)
        intensity[modality] = stats
        has_brain |= voxels.any(axis=(1, 2))
    slice_index = _slice_index(recipe, has_brain)
    counts = None
    if lesions is not None:
        counts = slice_counts(lesions.data, grid, recipe, slice_index, placing=placing)
    brain_voxels = brain.data if use_mask and brain is not None else scans[reference].data != 0
    return PreparedCase(
        recipe=recipe,
        scans=prepared,
        lesions=None if lesions is None else lesions.data,
        grid=grid,
        slice_index=slice_index,
        brain_origin=brain_origin(
            "mask" if use_mask else "nonzero", brain_voxels, None if lesions is None else lesions.data
        ),
        intensity=intensity,
        counts=counts,
    )


def apply_files(
    recipe: Recipe,
    scans: Mapping[str, Path],
    brain: Path | None = None,
    *,
    lesions: Path | None = None,
    routes: Mapping[str, Steps] | None = None,
    strays: Mapping[str, str] | None = None,
) -> PreparedCase:
    """`apply` to the files of one case, read in parallel. Raises as `apply`, `CaseReader.volume` and `mask`.

    routes: transforms from the space of the recipe's `resample_to` to that of a file; without effect where it is unset.
    strays: files whose names declare a space to which no transform leads.
    """
    reader = case_reader(recipe.resample_to, recipe.modalities, scans, routes, strays)
    brain_used = brain if recipe.brain != "nonzero" else None
    with ThreadPoolExecutor(2, thread_name_prefix="read") as pool:
        reads = {
            modality: pool.submit(reader.volume, modality, scans[modality])
            for modality in recipe.modalities
            if modality in scans
        }
        brain_read = pool.submit(reader.mask, "brain", brain_used) if brain_used else None
        lesions_read = (
            pool.submit(reader.placed_mask, "lesions", lesions, threshold=recipe.mask_threshold) if lesions else None
        )
    files = {**scans, **({"brain": brain} if brain else {}), **({"lesions": lesions} if lesions else {})}
    truth, placing = lesions_read.result() if lesions_read else (None, None)
    return apply(
        recipe,
        {modality: read.result() for modality, read in reads.items()},
        brain_read.result() if brain_read else None,
        lesions=truth,
        files=files,
        placing=placing,
    )


def _slice_index(recipe: Recipe, has_brain: BoolArray) -> npt.NDArray[np.int32]:
    """(S,) places of the slices to keep; a slice has brain where interpolation reaches a scan slice that has."""
    count = recipe.size[recipe.axis]
    if not recipe.drop_slices_without_brain:
        return np.arange(count, dtype=np.int32)
    reach = np.interp(coordinates(len(has_brain), count), np.arange(len(has_brain)), has_brain)
    return np.flatnonzero(reach > 0).astype(np.int32)
