"""Writing one case to its shard: a self-contained HDF5 file, whole or not at all, the same bytes for the same case.

What a recipe stores is its own (see its `shard` module); every shard has these attributes: schema_version, case,
recipe_hash, sources, scan_grid, brain_source, brain_origin, intensity, lesion_counts. Every chunk carries a checksum
(fletcher32): a damaged one is noticed when it is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mspipeline import hdf5
from mspipeline.errors import ShardError
from mspipeline.files import sha256_file, write_bytes
from mspipeline.preprocess.brain import BrainOrigin
from mspipeline.preprocess.intensity import Statistics
from mspipeline.preprocess.lesion_counts import LesionCounts
from mspipeline.shards.manifest import REMEDY, ShardEntry, shard_path
from mspipeline.volume import ScanGrid

SCHEMA_VERSION = 1
GROWTH_BYTES = 16 << 20
"""The in-memory file grows by this much at a time."""

COMPRESSION: dict[str, dict[str, Any]] = {
    "none": {},
    "lzf": {"compression": "lzf"},
    "gzip": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
}


@dataclass(frozen=True)
class Source:
    """A file that a shard was made from. file: relative to the dataset. sha256: of its bytes."""

    file: str
    sha256: str


def in_memory(case: str) -> Any:
    """A new HDF5 file in memory, to be filled and given to `store`."""
    return hdf5.in_memory(f"{case}.h5", block_size=GROWTH_BYTES)


def chunk_options(compression: str) -> dict[str, Any]:
    """Of a dataset in chunks: checksums, no times, and a key of COMPRESSION."""
    return {"track_times": False, "fletcher32": True, **COMPRESSION[compression]}


def write_origin(file: Any, case: str, recipe_hash: str, sources: Mapping[str, Source], grid: ScanGrid) -> None:
    """What a shard was made of and how, and the scan's grid."""
    file.attrs["schema_version"] = SCHEMA_VERSION
    file.attrs["case"] = case
    file.attrs["recipe_hash"] = recipe_hash
    file.attrs["sources"] = _json({name: asdict(source) for name, source in sources.items()})
    file.attrs["scan_grid"] = _json(grid.to_json())


def write_intensity(file: Any, brain: BrainOrigin, intensity: Mapping[str, Statistics]) -> None:
    """What the brain was taken from, and its mean and spread in each modality before normalising."""
    file.attrs["brain_source"] = brain.source
    file.attrs["brain_origin"] = _json(brain.model_dump(mode="json"))
    file.attrs["intensity"] = _json({name: asdict(stats) for name, stats in intensity.items()})


def write_counts(file: Any, counts: LesionCounts | None) -> None:
    """What became of the lesions on the way from their file."""
    if counts is not None:
        file.attrs["lesion_counts"] = _json(counts.model_dump(mode="json"))


def store(shards: Path, case: str, file: Any) -> ShardEntry:
    """Write a file in memory to SHARDS/cases/<case>.h5, whole or not at all. Raises StorageError."""
    file.flush()
    content: bytes = file.id.get_file_image()
    path = shard_path(shards, case)
    write_bytes(path, content)
    return ShardEntry(
        case=case,
        file=path.relative_to(shards).as_posix(),
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        brain=_brain(file),
    )


def _brain(file: Any) -> BrainOrigin | None:
    """Where a shard's brain comes from; None in one of an earlier version."""
    stored = file.attrs.get("brain_origin")
    return None if stored is None else BrainOrigin.model_validate_json(stored)


@dataclass(frozen=True)
class StoredShard:
    """What any shard on disk says of itself. entry: without what its recipe adds. sources: files it was made from."""

    path: Path
    entry: ShardEntry
    recipe_hash: str
    sources: dict[str, Source]


def read_stored(shards: Path, case: str) -> StoredShard:
    """A shard on disk. Every chunk is read, so that what it says is worth keeping.

    Raises ShardError where the file is damaged.
    """
    path = shard_path(shards, case)
    with _whole(path) as file:
        for data in file.values():
            for place in data.iter_chunks() if data.chunks else [...]:
                data[place]
        entry = ShardEntry(
            case=str(file.attrs["case"]),
            file=path.relative_to(shards).as_posix(),
            sha256=sha256_file(path),
            bytes=path.stat().st_size,
            counts=LesionCounts(**json.loads(counts)) if (counts := file.attrs.get("lesion_counts")) else None,
            brain=_brain(file),
        )
        sources = {name: Source(**source) for name, source in json.loads(file.attrs["sources"]).items()}
        return StoredShard(path, entry, str(file.attrs["recipe_hash"]), sources)


def describe(stored: StoredShard, own: Callable[[Any], Mapping[str, Any]]) -> dict[str, Any]:
    """The keys of a stored shard's entry. own: the recipe's keys, of the open file; it raises ValueError where its
    parts do not fit together. Raises ShardError where the file is damaged.
    """
    with _whole(stored.path) as file:
        return {**stored.entry.model_dump(), **own(file)}


@contextmanager
def _whole(path: Path) -> Iterator[Any]:
    """The open file. Raises ShardError for whatever is met in reading it."""
    try:
        with hdf5.open_hdf5(path) as file:
            yield file
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise ShardError(f"{path}: a damaged shard ({error}); delete it and {REMEDY}") from error


def _json(document: Any) -> str:
    return json.dumps(document, sort_keys=True, allow_nan=False)
