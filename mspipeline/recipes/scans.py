"""What recipes of brain scans share: modalities on one grid, a brain from masks or voxels, a mask of lesions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pydantic import ValidationInfo, field_validator

from mspipeline.datasets.case import Case
from mspipeline.datasets.layouts import Found, Masks, find_cases
from mspipeline.errors import DatasetError, shown
from mspipeline.grid import apart
from mspipeline.parallel.deal import estimated_cost
from mspipeline.preprocess.brain import MASKS, BrainChoice, BrainSource, sources_of
from mspipeline.preprocess.resample_onto import CaseReader, case_reader, composed, require_reference
from mspipeline.recipes.base import Inspection, Recipe, Schema
from mspipeline.volume import ScanGrid, load_grid


class ScanSchema(Schema):
    """Numbers of a recipe of brain scans. Each recipe states the fields itself, in the order in which files have them.

    modalities: of each case. brain: see `preprocess.brain`. mask_threshold: of lesion masks that are not 0 and 1.
    resample_to: modality onto whose grid all files of a case are put; None where they are on one grid.
    """

    if TYPE_CHECKING:
        modalities: tuple[str, ...]
        brain: BrainChoice
        mask_threshold: float | None
        resample_to: str | None

    @field_validator("modalities", check_fields=False)
    @classmethod
    def _named_once(cls, modalities: tuple[str, ...]) -> tuple[str, ...]:
        if not modalities or len(set(modalities)) != len(modalities):
            raise ValueError("expected at least one modality, each named once")
        return modalities

    @field_validator("resample_to", check_fields=False)
    @classmethod
    def _reference_is_read(cls, reference: str | None, info: ValidationInfo) -> str | None:
        return require_reference(reference, info.data.get("modalities", ()))


S_co = TypeVar("S_co", bound=ScanSchema, covariant=True)


class ScanRecipe(Recipe[S_co]):
    """A recipe of brain scans. Its own part is what is made of the volumes."""

    @property
    def channels(self) -> tuple[str, ...]:
        return self.settings.modalities

    def find(self, dataset: Path, *, masks: Masks, prefer: Sequence[str] = (), change_masks: bool = False) -> Found:
        return find_cases(
            dataset,
            self.settings.modalities,
            masks=masks,
            brain=self.settings.brain != "nonzero",
            prefer=prefer,
            change_masks=change_masks,
        )

    def check_together(self, dataset: Path, cases: Sequence[Case]) -> None:
        """Raise DatasetError where only some cases have a brain mask, and the recipe does not ask for that."""
        without = [case.id for case in cases if case.brain_mask is None]
        if self.settings.brain == "auto" and 0 < len(without) < len(cases):
            raise DatasetError(
                f"{dataset}: {len(without)} of {len(cases)} cases have no brain mask ({shown(without)}), the "
                f"others have; add those masks ({MASKS}), or `--set brain=nonzero` for skull-stripped scans, or "
                "`--set brain=mixed`, which normalises by masks where there are some, else by the voxels that are not 0"
            )

    def files(self, case: Case) -> dict[str, Path]:
        """Modality, "lesions" and, where the recipe uses it, "brain" -> file; transforms as "T1w: FILE"."""
        files = self._images(case)
        chains = case.transform_chains(self.settings.resample_to)
        transforms = {f"{name}: {path.name}": path for name in files for path, _ in chains.get(name, ())}
        return {**files, **transforms}

    def inputs(self, case: Case) -> dict[str, Path]:
        return {modality: case.scans[modality] for modality in self.settings.modalities}

    def inspect(self, case: Case) -> Inspection:
        """Compare the headers of a case's files and read its transforms.

        Raises DatasetError where grids differ and the recipe does not resample, where a brain mask is wanted and
        absent, or a transform cannot be used; VolumeError where a header is no image's.
        """
        recipe = self.settings
        files = self._images(case)
        grids = {name: load_grid(path) for name, path in files.items()}
        chains = case.transform_chains(recipe.resample_to)
        strays = case.strays(recipe.resample_to or recipe.modalities[0])
        reader = case_reader(recipe.resample_to, recipe.modalities, case.scans, chains, strays)
        if recipe.resample_to is None:
            _require_one_grid(case, files, grids, reader)
        for chain in chains.values():
            composed(chain)
        for name, path in files.items():
            try:
                reader.require_place(name, path, grids[name])
            except DatasetError as error:
                raise DatasetError(f"{case.id}: {error}") from error
        if recipe.brain == "mask" and case.brain_mask is None:
            raise DatasetError(
                f"{case.id}: has no brain mask but the recipe sets brain = 'mask'; "
                "add derivatives/*/.../*_desc-brain_mask.nii.gz or set brain = 'auto'"
            )
        voxels = sum(math.prod(grid.shape) for grid in grids.values())
        voxels += len(recipe.modalities) * math.prod(self._written_shape(grids[recipe.modalities[0]]))
        file_bytes = sum(path.stat().st_size for path in files.values())
        return Inspection(
            estimated_cost(file_bytes, voxels),
            {name: how for name, grid in grids.items() if (how := reader.resampled_by(name, grid))},
            {name: round(off, 4) for name, grid in grids.items() if (off := reader.offset_mm(grid)) is not None},
            tuple(name for name, grid in grids.items() if not grid.is_placed),
        )

    def with_brain(self, brain: BrainChoice) -> Self:
        return type(self)(self.settings.model_copy(update={"brain": brain}))

    def brain_sources(self, dataset: Path, cases: Sequence[Case]) -> dict[str, BrainSource]:
        without = [case.id for case in cases if case.brain_mask is None]
        if self.settings.brain == "mask" and without:
            raise DatasetError(
                f"{dataset}: {len(without)} of {len(cases)} cases have no brain mask ({shown(without)}); "
                f"add {MASKS}, or take the voxels that are not 0 in skull-stripped scans by --brain nonzero"
            )
        return sources_of(self.settings.brain, {case.id: case.brain_mask is not None for case in cases})

    def _written_shape(self, scan: ScanGrid) -> tuple[int, ...]:
        """(X, Y, Z) of a channel in a shard. scan: the grid of the case's first."""
        return scan.shape

    def _images(self, case: Case) -> dict[str, Path]:
        files = self.inputs(case)
        if case.lesion_mask is not None:
            files["lesions"] = case.lesion_mask
        if case.brain_mask is not None and self.settings.brain != "nonzero":
            files["brain"] = case.brain_mask
        return files


def read_arguments(recipe: ScanSchema, case: Case) -> dict[str, Any]:
    """What a recipe's `apply_files` takes of a case beside its recipe: scans, brain, chains and strays."""
    return {
        "scans": {modality: case.scans[modality] for modality in recipe.modalities},
        "brain": case.brain_mask,
        "chains": case.transform_chains(recipe.resample_to),
        "strays": case.strays(recipe.resample_to or recipe.modalities[0]),
    }


def _require_one_grid(case: Case, files: Mapping[str, Path], grids: Mapping[str, ScanGrid], reader: CaseReader) -> None:
    """Raises DatasetError naming two files whose grids differ, and the option that resamples, where it would."""
    first, *others = files
    for name in others:
        if grids[name].turn_onto(grids[first]) is None and name not in reader.strays:
            onto = "FLAIR" if "FLAIR" in case.scans else first
            chains = case.transform_chains(onto)
            used = sorted({path.name for name in files for path, _ in chains.get(name, ())})
            raise DatasetError(
                f"{case.id}: {files[first]} ({grids[first].describe()}) and {files[name]} ({grids[name].describe()}) "
                f"are on different grids, {apart(grids[first], grids[name])}; put all on one with --resample-to {onto} "
                f"({'through ' + ', '.join(used) if used else 'by their headers'}), or take files that belong together"
            )
