"""What a rank does with one case of a prepare: looks at its headers, hashes its files, makes its shard.

Each of the three is `work(task, threads)` for `shards.ranks`: a function of its task alone, which travels to the rank.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mspipeline.datasets.case import Case
from mspipeline.datasets.listing import printable_path
from mspipeline.errors import DataError, DatasetError, ShardError
from mspipeline.files import sha256_file
from mspipeline.grid import apart
from mspipeline.parallel.deal import estimated_cost
from mspipeline.preprocess import patches3d
from mspipeline.preprocess.brain import require_background
from mspipeline.preprocess.patches3d import PatchRecipe
from mspipeline.preprocess.recipe import Recipe, apply_files
from mspipeline.preprocess.resample_onto import CaseReader, case_reader, follow
from mspipeline.shards.manifest import Entry, shard_fault, shard_path
from mspipeline.shards.patch_writer import write_patch_shard
from mspipeline.shards.writer import Source, read_entry, write_shard
from mspipeline.volume import ScanGrid, load_grid

log = logging.getLogger(__name__)

AnyRecipe = Recipe | PatchRecipe
Sources = dict[str, Source]

THREADS_MAX = 4
"""Resampling threads of one case: beyond these, compression in the main thread is what takes the time."""


@dataclass(frozen=True)
class Look:
    """Task: the headers of one case."""

    recipe: AnyRecipe
    case: Case


@dataclass(frozen=True)
class Seen:
    """What headers tell. cost: of its shard, estimated. ways: file -> how it comes onto the reference's grid.

    offsets_mm: file -> how far its grid lies from the reference's, where it is taken for the same all the same.
    unplaced: files whose headers have neither form.
    """

    cost: float
    ways: Mapping[str, str]
    offsets_mm: Mapping[str, float]
    unplaced: tuple[str, ...]


@dataclass(frozen=True)
class Hash:
    """Task: the SHA-256 of one case's files. dataset: folder that their names are relative to."""

    dataset: Path
    files: Mapping[str, Path]


@dataclass(frozen=True)
class Make:
    """Task: the shard of one case. previous: its entry in a finished manifest, None where there is no manifest."""

    output: Path
    recipe: AnyRecipe
    case: Case
    sources: Sources
    previous: Entry | None


@dataclass(frozen=True)
class Made:
    """A shard on disk. kept: it was there already."""

    entry: Entry
    kept: bool


def used_files(recipe: AnyRecipe, case: Case) -> dict[str, Path]:
    """What a case's shard is made from: modality, "lesions" and, where the recipe uses it, "brain" -> file.

    Transforms that it goes through are among them, as "T1w: FILE".
    """
    files = _images(recipe, case)
    routes = case.routes(recipe.resample_to)
    steps = {f"{name}: {path.name}": path for name in files for path, _ in routes.get(name, ())}
    return {**files, **steps}


def look(task: Look, threads: int) -> Seen:
    """Compare the headers of a case's files and read its transforms.

    Raises DatasetError where grids differ and the recipe does not resample, where a brain mask is wanted and absent, or
    a transform cannot be used; VolumeError where a header is no image's.
    """
    recipe, case = task.recipe, task.case
    files = _images(recipe, case)
    grids = {name: load_grid(path) for name, path in files.items()}
    routes = case.routes(recipe.resample_to)
    reference = recipe.resample_to or recipe.modalities[0]
    strays = case.strays(reference)
    reader = case_reader(recipe.resample_to, recipe.modalities, case.scans, routes, strays)
    if recipe.resample_to is None:
        _require_one_grid(case, files, grids, reader)
    for steps in routes.values():
        follow(steps)
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
    voxels_read = sum(math.prod(grid.shape) for grid in grids.values())
    channels = len(recipe.modalities)
    written = recipe.size if isinstance(recipe, Recipe) else grids[recipe.modalities[0]].shape
    file_bytes = sum(path.stat().st_size for path in files.values())
    ways = {name: way for name, grid in grids.items() if (way := reader.way(name, grid))}
    unplaced = tuple(name for name, grid in grids.items() if not grid.is_placed)
    offsets = {name: round(off, 4) for name, grid in grids.items() if (off := reader.offset_mm(grid)) is not None}
    return Seen(estimated_cost(file_bytes, voxels_read + channels * math.prod(written)), ways, offsets, unplaced)


def hash_files(task: Hash, threads: int) -> Sources:
    """Each source file's SHA-256, read once, several at a time."""
    with ThreadPoolExecutor(min(THREADS_MAX, threads), thread_name_prefix="hash") as pool:
        digests = pool.map(sha256_file, task.files.values())
    return {
        name: Source(printable_path(path.relative_to(task.dataset)), digest)
        for (name, path), digest in zip(task.files.items(), digests, strict=True)
    }


def hashes(sources: Mapping[str, Source]) -> dict[str, str]:
    """File -> SHA-256."""
    return {name: source.sha256 for name, source in sources.items()}


def make(task: Make, threads: int) -> Made:
    """The case's shard: the one on disk where it is whole, else made now. Raises as `prepare` does."""
    kept = _kept(task)
    return Made(kept, True) if kept else Made(_make(task, min(THREADS_MAX, threads)), False)


def _images(recipe: AnyRecipe, case: Case) -> dict[str, Path]:
    files = {modality: case.scans[modality] for modality in recipe.modalities}
    if case.lesion_mask is not None:
        files["lesions"] = case.lesion_mask
    if case.brain_mask is not None and recipe.brain != "nonzero":
        files["brain"] = case.brain_mask
    return files


def _require_one_grid(case: Case, files: Mapping[str, Path], grids: Mapping[str, ScanGrid], reader: CaseReader) -> None:
    """Raises DatasetError naming two files whose grids differ, and the option that resamples, where it would."""
    first, *others = files
    for name in others:
        if grids[name].turn_onto(grids[first]) is None and name not in reader.strays:
            onto = "FLAIR" if "FLAIR" in case.scans else first
            routes = case.routes(onto)
            used = sorted({path.name for name in files for path, _ in routes.get(name, ())})
            raise DatasetError(
                f"{case.id}: {files[first]} ({grids[first].describe()}) and {files[name]} ({grids[name].describe()}) "
                f"are on different grids, {apart(grids[first], grids[name])}; put all on one with --resample-to {onto} "
                f"({'through ' + ', '.join(used) if used else 'by their headers'}), or take files that belong together"
            )


def _kept(task: Make) -> Entry | None:
    """The entry of a shard that is on disk and whole; None where it must be made.

    Raises ShardError where it is whole but of another recipe or other files.
    """
    output, case = task.output, task.case.id
    path = shard_path(output, case)
    if not path.exists():
        return None
    if task.previous is not None:
        fault = shard_fault(output, task.previous)
        if fault:
            log.warning("shard made again case=%s: it %s", case, fault)
        return None if fault else task.previous
    try:
        entry, recipe_hash, made_from = read_entry(output, case)
    except ShardError as error:
        log.warning("shard made again case=%s: %s", case, error)
        return None
    if recipe_hash != task.recipe.hash:
        raise ShardError(f"{path}: made by another recipe; choose another output folder, or delete {output}")
    if hashes(made_from) != hashes(task.sources):
        raise ShardError(f"{path}: made from other files; choose another output folder, or delete {output}")
    return entry


def _make(task: Make, threads: int) -> Entry:
    """Prepare one case and write its shard. An error of its data names the case."""
    recipe, case, output = task.recipe, task.case, task.output
    scans = {modality: case.scans[modality] for modality in recipe.modalities}
    routes = case.routes(recipe.resample_to)
    strays = case.strays(recipe.resample_to or recipe.modalities[0])
    try:
        if isinstance(recipe, PatchRecipe):
            volume = patches3d.apply_files(
                recipe, scans, case.brain_mask, lesions=case.lesion_mask, routes=routes, strays=strays
            )
            require_background(recipe.brain, volume.brain_origin, str(scans[recipe.candidates_of]))
            made = write_patch_shard(output, case.id, volume, task.sources)
            log.info("shard written case=%s candidates=%d lesions=%d", case.id, made.candidates, made.lesion_voxels)
            return made
        prepared = apply_files(recipe, scans, case.brain_mask, lesions=case.lesion_mask, routes=routes, strays=strays)
        require_background(recipe.brain, prepared.brain_origin, str(scans[recipe.modalities[0]]))
    except DataError as error:
        raise type(error)(f"{case.id}: {error}") from error
    entry = write_shard(output, case.id, prepared, task.sources, threads=threads)
    log.info("shard written case=%s slices=%d lesion_voxels=%d", case.id, entry.slices, entry.lesion_voxels)
    return entry
