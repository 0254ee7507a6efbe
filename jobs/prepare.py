"""Scans to shards: `python -m jobs prepare FILE`.

One shard per case, the manifest last. What is on disk already and fits (same recipe, same source files) is kept, so a
prepare that was stopped continues where it was, and one that was finished does nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mspipeline.config import PrepareJob
from mspipeline.datasets.bids import Case, Found, find_cases
from mspipeline.datasets.split import make_split
from mspipeline.errors import DataError, DatasetError, Interrupted, ShardError, UsageError
from mspipeline.files import sha256_data, sha256_file
from mspipeline.preprocess.recipe import Recipe, apply_files, load_recipe, require_same_grid
from mspipeline.shards.manifest import (
    CaseEntry,
    Manifest,
    SkippedCase,
    load_manifest,
    manifest_path,
    shard_fault,
    shard_path,
    write_manifest,
)
from mspipeline.shards.writer import Source, read_entry, write_shard
from mspipeline.volume import load_grid

log = logging.getLogger(__name__)

Report = Callable[[str, int, int], None]
Sources = dict[str, Source]

THREADS_MAX = 4
"""Resampling threads of one case: beyond these, compression in the main thread is what takes the time."""


def prepare(
    job: PrepareJob, *, recipe_overrides: Mapping[str, Any] | None = None, report: Report | None = None
) -> Manifest:
    """Prepare every case of a dataset and return the manifest.

    recipe_overrides: recipe keys that replace those of the recipe's file. report(case, done, total): after each case.
    Everything that can be told without reading voxels is checked for all cases before the first one is prepared.
    Raises ConfigError (recipe, split), DatasetError and VolumeError (scans), UsageError and ShardError (an output
    folder that holds something else), StorageError, and Interrupted on Ctrl-C. Shards finished before an error stay.
    """
    try:
        return _prepare(job, load_recipe(job.recipe, recipe_overrides), report)
    except KeyboardInterrupt:
        raise Interrupted(
            f"{job.output}: stopped by Ctrl-C, finished shards are kept; run the same command again to make the others"
        ) from None


def _prepare(job: PrepareJob, recipe: Recipe, report: Report | None) -> Manifest:
    _check_output(job.output)
    found = find_cases(job.dataset, recipe.modalities, masks="required")
    _check_complete(job, found)
    split = make_split({case.id: case.subject for case in found.cases}, job.split)
    for case in found.cases:
        _check_grids(recipe, case)
    sources = _hash_sources(job.dataset, recipe, found.cases)
    dataset_hash = sha256_data({case: _hashes(files) for case, files in sources.items()})
    previous = _previous(job.output, recipe, dataset_hash)
    _check_strays(job.output, found)
    known = None if previous is None else {entry.case: entry for entry in previous.cases}
    entries = []
    for done, case in enumerate(found.cases, start=1):
        entry = _kept(job.output, recipe, case.id, sources[case.id], known)
        entries.append(entry or _make(job.output, recipe, case, sources[case.id]))
        if report:
            report(case.id, done, len(found.cases))
    manifest = Manifest(
        dataset_name=found.dataset_name,
        dataset_hash=dataset_hash,
        recipe=recipe.model_dump(mode="json"),
        recipe_hash=recipe.hash,
        channels=recipe.modalities,
        split=split,
        split_hash=split.hash,
        cases=tuple(entries),
        skipped=tuple(SkippedCase(case=case, reason=reason) for case, reason in found.incomplete),
    )
    if manifest == previous:
        log.info("nothing to do: all shards are there cases=%d shards=%s", len(entries), job.output)
        return manifest
    write_manifest(job.output, manifest)
    log.info("prepared cases=%d shards=%s", len(entries), job.output)
    return manifest


def _check_output(output: Path) -> None:
    """Raises UsageError where the output is a file, or a folder that holds anything but shards."""
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output}: a file, expected a folder for the shards; choose another")
    if not output.is_dir():
        return
    ours = {"manifest.json", "manifest.json.partial", "cases"}
    strange = sorted(child.name for child in output.iterdir() if child.name not in ours)
    cases = output / "cases"
    if cases.is_dir():
        strange += sorted(
            f"cases/{child.name}" for child in cases.iterdir() if not child.name.endswith((".h5", ".h5.partial"))
        )
    if strange:
        raise UsageError(
            f"{output}: not empty and not a shards folder (holds {', '.join(strange[:4])}); choose a new folder"
        )


def _check_complete(job: PrepareJob, found: Found) -> None:
    """Raises DatasetError naming every incomplete case, unless they may be skipped and others are left."""
    reasons = "; ".join(f"{case}: {reason}" for case, reason in found.incomplete)
    total = len(found.cases) + len(found.incomplete)
    if found.incomplete and not found.cases:
        raise DatasetError(
            f"{job.dataset}: none of {total} cases is complete ({reasons}); "
            "add the files, or choose a recipe with other modalities"
        )
    if found.incomplete and not job.skip_incomplete:
        raise DatasetError(
            f"{job.dataset}: {len(found.incomplete)} of {total} cases incomplete ({reasons}); add the files, choose a "
            "recipe with other modalities, or leave these cases out with --skip-incomplete"
        )


def _used_files(recipe: Recipe, case: Case) -> dict[str, Path]:
    """What a case's shard is made from: modality, "lesions" and, where the recipe uses it, "brain" -> file."""
    files = {modality: case.scans[modality] for modality in recipe.modalities}
    if case.lesion_mask is not None:
        files["lesions"] = case.lesion_mask
    if case.brain_mask is not None and recipe.brain != "nonzero":
        files["brain"] = case.brain_mask
    return files


def _check_grids(recipe: Recipe, case: Case) -> None:
    """Compare the headers of a case's files. Raises DatasetError, or VolumeError where a header is no image's."""
    files = list(_used_files(recipe, case).values())
    grids = [load_grid(path) for path in files]
    for path, grid in zip(files[1:], grids[1:], strict=True):
        require_same_grid(f"{case.id}: {files[0]}", grids[0], str(path), grid)
    if recipe.brain == "mask" and case.brain_mask is None:
        raise DatasetError(
            f"{case.id}: has no brain mask but the recipe sets brain = 'mask'; "
            "add derivatives/*/.../*_desc-brain_mask.nii.gz or set brain = 'auto'"
        )


def _hash_sources(dataset: Path, recipe: Recipe, cases: tuple[Case, ...]) -> dict[str, Sources]:
    """Each source file's SHA-256, read once, several at a time."""
    files = [(case.id, name, path) for case in cases for name, path in _used_files(recipe, case).items()]
    sources: dict[str, Sources] = {case.id: {} for case in cases}
    with ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="hash") as pool:
        for (case, name, path), digest in zip(files, pool.map(lambda file: sha256_file(file[2]), files), strict=True):
            sources[case][name] = Source(path.relative_to(dataset).as_posix(), digest)
    return sources


def _hashes(sources: Sources) -> dict[str, str]:
    return {name: source.sha256 for name, source in sources.items()}


def _check_strays(output: Path, found: Found) -> None:
    """Raises ShardError where the output holds shards of cases that the dataset has not."""
    known = {case.id for case in found.cases}
    strays = sorted(path.stem for path in (output / "cases").glob("*.h5") if path.stem not in known)
    if strays:
        raise ShardError(
            f"{output}: holds shards of cases that are not prepared now ({', '.join(strays[:5])}); "
            "choose another output folder, or delete this one"
        )


def _previous(output: Path, recipe: Recipe, dataset_hash: str) -> Manifest | None:
    """The manifest that is there already; None where there is none.

    Raises ShardError where it is of another recipe or dataset.
    """
    if not manifest_path(output).exists():
        return None
    previous = load_manifest(output)
    if previous.recipe_hash != recipe.hash:
        before = previous.recipe
        changed = [key for key, value in recipe.model_dump(mode="json").items() if before.get(key) != value]
        raise ShardError(
            f"{output}: holds shards of another recipe (it differs in {', '.join(changed)}); "
            "choose another output folder, or delete this one"
        )
    if previous.dataset_hash != dataset_hash:
        raise ShardError(
            f"{output}: holds shards of another dataset or of other versions of its files "
            f"({previous.dataset_name}, {len(previous.cases)} cases); choose another output folder, or delete this one"
        )
    return previous


def _kept(
    output: Path, recipe: Recipe, case: str, sources: Sources, previous: Mapping[str, CaseEntry] | None
) -> CaseEntry | None:
    """The entry of a shard that is on disk and whole; None where it must be made. previous: of the manifest there is.

    Raises ShardError where it is whole but of another recipe or other files.
    """
    path = shard_path(output, case)
    if not path.exists():
        return None
    if previous is not None:
        entry = previous[case]
        fault = shard_fault(output, entry)
        if fault:
            log.warning("shard made again case=%s: it %s", case, fault)
        return None if fault else entry
    try:
        entry, recipe_hash, made_from = read_entry(output, case)
    except ShardError as error:
        log.warning("shard made again case=%s: %s", case, error)
        return None
    if recipe_hash != recipe.hash:
        raise ShardError(f"{path}: made by another recipe; choose another output folder, or delete {output}")
    if _hashes(made_from) != _hashes(sources):
        raise ShardError(f"{path}: made from other files; choose another output folder, or delete {output}")
    return entry


def _make(output: Path, recipe: Recipe, case: Case, sources: Sources) -> CaseEntry:
    """Prepare one case and write its shard. An error of its data names the case."""
    try:
        prepared = apply_files(
            recipe,
            {modality: case.scans[modality] for modality in recipe.modalities},
            case.brain_mask,
            lesions=case.lesion_mask,
        )
    except DataError as error:
        raise type(error)(f"{case.id}: {error}") from error
    threads = min(THREADS_MAX, len(os.sched_getaffinity(0)))
    entry = write_shard(output, case.id, prepared, sources, threads=threads)
    log.info("shard written case=%s slices=%d lesion_voxels=%d", case.id, entry.slices, entry.lesion_voxels)
    return entry
