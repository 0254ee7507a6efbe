"""What a rank does with one case of a prepare: looks at its headers, hashes its files, makes its shard.

Each of the three is `work(task, threads)` for `parallel.ranks`: a function of its task alone, which travels to it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mspipeline.datasets.case import Case
from mspipeline.datasets.listing import printable_path
from mspipeline.errors import ShardError
from mspipeline.files import sha256_file
from mspipeline.recipes.base import Inspection
from mspipeline.recipes.catalogue import AnyRecipe
from mspipeline.shards.manifest import ShardEntry, shard_fault, shard_path
from mspipeline.shards.writer import Source, read_stored

log = logging.getLogger(__name__)

Sources = dict[str, Source]

THREADS_MAX = 4
"""Resampling threads of one case: beyond these, compression in the main thread is what takes the time."""


@dataclass(frozen=True)
class InspectTask:
    """The headers of one case."""

    recipe: AnyRecipe
    case: Case


@dataclass(frozen=True)
class HashTask:
    """The SHA-256 of one case's files. dataset: folder that their names are relative to."""

    dataset: Path
    files: Mapping[str, Path]


@dataclass(frozen=True)
class ShardTask:
    """The shard of one case. previous: its entry in a finished manifest, None where there is no manifest."""

    output: Path
    recipe: AnyRecipe
    case: Case
    sources: Sources
    previous: ShardEntry | None


@dataclass(frozen=True)
class ShardResult:
    """A shard on disk. kept: it was there already."""

    entry: ShardEntry
    kept: bool


def inspect(task: InspectTask, threads: int) -> Inspection:
    """Look at the headers of a case's files. Raises as the recipe does."""
    return task.recipe.inspect(task.case)


def hash_files(task: HashTask, threads: int) -> Sources:
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


def make(task: ShardTask, threads: int) -> ShardResult:
    """The case's shard: the one on disk where it is whole, else made now. Raises as `prepare` does."""
    if kept := _kept(task):
        return ShardResult(kept, True)
    made = task.recipe.write_shard(task.output, task.case, task.sources, threads=min(THREADS_MAX, threads))
    return ShardResult(made, False)


def _kept(task: ShardTask) -> ShardEntry | None:
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
        stored = read_stored(output, case)
        entry = task.recipe.read_entry(stored) if stored.recipe_hash == task.recipe.hash else None
    except ShardError as error:
        log.warning("shard made again case=%s: %s", case, error)
        return None
    if entry is None:
        raise ShardError(f"{path}: made by another recipe; choose another output folder, or delete {output}")
    if hashes(stored.sources) != hashes(task.sources):
        raise ShardError(f"{path}: made from other files; choose another output folder, or delete {output}")
    return entry
