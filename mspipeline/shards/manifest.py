"""The manifest of a shards folder: what was prepared, by which recipe, and which case is in which subset.

SHARDS/
  manifest.json          written last: a folder without it is unfinished
  cases/<case>.h5
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from mspipeline.config import Strict, parse
from mspipeline.datasets.split import Split, Subset
from mspipeline.errors import ConfigError, DataError, ShardError
from mspipeline.files import read_json, sha256_file, write_json
from mspipeline.preprocess.brain import BrainOrigin
from mspipeline.preprocess.lesion_counts import LesionCounts

SCHEMA_VERSION = 1
REMEDY = "run `mspipeline prepare` again, it makes only what is missing"


class ShardEntry(Strict):
    """One shard, whatever it holds. file: relative to the shards folder. sha256, bytes: of that file.

    counts: of the lesions in its mask file and on the way to what is stored; None in shards from before it was counted.
    brain: where the case's brain comes from; None of shards of earlier versions.
    """

    case: str
    file: str
    sha256: str
    bytes: int
    counts: LesionCounts | None = None
    brain: BrainOrigin | None = None


class CaseEntry(ShardEntry):
    """A shard of slices.

    slices: S of the shard's `image` (S, H, W, C); image_shape: its (H, W, C).
    lesion_voxels, lesion_slices: of the stored mask, on the resampled grid; 0 in a healthy case.
    """

    slices: int
    image_shape: tuple[int, int, int]
    lesion_voxels: int
    lesion_slices: int


class PatchEntry(ShardEntry):
    """A shard of a volume and of the voxels to cut patches around.

    image_shape: (x, y, z, C) of a patch. volume_shape: (X, Y, Z) of the volume, on the scan's own grid.
    candidates, lesion_voxels: voxels that may be lesion, and that are; not each of these is a candidate.
    """

    kind: Literal["patches3d"] = "patches3d"
    image_shape: tuple[int, int, int, int]
    volume_shape: tuple[int, int, int]
    candidates: int
    lesion_voxels: int

    @model_validator(mode="before")
    @classmethod
    def _without_stored_patches(cls, entry: Any) -> Any:
        """Version 0.1 counted patches that it had stored beside the volume; nothing reads them."""
        return {key: value for key, value in entry.items() if key != "patches"} if isinstance(entry, dict) else entry

    @property
    def volume_bytes(self) -> int:
        """Of the volume in memory, float32."""
        return 4 * self.image_shape[3] * math.prod(self.volume_shape)


def _kind(entry: Any) -> str:
    """Entries of slices do not say what they are: those came first."""
    found = entry.get("kind", "slices2d") if isinstance(entry, dict) else getattr(entry, "kind", "slices2d")
    return str(found)


Entry = Annotated[Annotated[CaseEntry, Tag("slices2d")] | Annotated[PatchEntry, Tag("patches3d")], Discriminator(_kind)]


class SkippedCase(Strict):
    """A case that `--skip-incomplete` left out, and why."""

    case: str
    reason: str


class Manifest(Strict):
    """`manifest.json`. Hashes are SHA-256 in hexadecimal.

    dataset_hash: over case ids, modalities and the SHA-256 of every source file.
    recipe: as it was applied, every number of it.
    warnings: what was noticed about the dataset, a line each; `prepare` shows them.
    others: kind -> how many images the dataset has of kinds that the recipe did not ask for.
    resampled: case -> file -> how it came onto the grid of the recipe's `resample_to`: "headers", or its transforms.
    offsets_mm: case -> file -> how far its grid lies from that of the first scan (of `resample_to`), where it was taken
        for the same and the difference is above what headers round away.
    """

    schema_version: int = SCHEMA_VERSION
    dataset_name: str
    dataset_hash: str
    recipe: dict[str, Any]
    recipe_hash: str
    channels: tuple[str, ...]
    split: Split
    split_hash: str
    cases: tuple[Entry, ...]
    skipped: tuple[SkippedCase, ...] = ()
    warnings: tuple[str, ...] = ()
    others: dict[str, int] = Field(default_factory=dict)
    resampled: dict[str, dict[str, str]] = Field(default_factory=dict)
    offsets_mm: dict[str, dict[str, float]] = Field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What the recipe made: "slices2d" or "patches3d"."""
        return _kind(self.recipe)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W, C) of a slice or (x, y, z, C) of a patch, the same for every case: the recipe sets it."""
        return self.cases[0].image_shape

    @property
    def brain_sources(self) -> dict[str, int]:
        """How many cases have their brain from which source, "mask" or "nonzero"; without those of earlier versions."""
        return dict(Counter(entry.brain.source for entry in self.cases if entry.brain is not None))

    @property
    def slices(self) -> tuple[CaseEntry, ...]:
        """The cases, of slices. Raises ShardError where they are something else."""
        entries = tuple(entry for entry in self.cases if isinstance(entry, CaseEntry))
        self._require(entries, "slices2d", "a network on slices, such as unet2d")
        return entries

    @property
    def volumes(self) -> tuple[PatchEntry, ...]:
        """The cases, of volumes to cut patches from. Raises ShardError where they are something else."""
        entries = tuple(entry for entry in self.cases if isinstance(entry, PatchEntry))
        self._require(entries, "patches3d", "a network on patches, such as cascade3d")
        return entries

    def subset(self, name: Subset) -> list[CaseEntry]:
        """The cases of a subset, in the split's order; an empty list where it has none. Raises as `slices`."""
        entries = {entry.case: entry for entry in self.slices}
        return [entries[case] for case in self.split.cases(name)]

    def patch_subset(self, name: Subset) -> list[PatchEntry]:
        """The same of volumes to cut patches from. Raises as `volumes`."""
        entries = {entry.case: entry for entry in self.volumes}
        return [entries[case] for case in self.split.cases(name)]

    def _require(self, entries: Sequence[ShardEntry], kind: str, wanted_by: str) -> None:
        if len(entries) != len(self.cases):
            raise ShardError(
                f"the shards of {self.dataset_name} were made by recipe {self.kind}, and {wanted_by}, takes {kind}; "
                f"prepare the scans with `--recipe {kind}` into a new folder"
            )


def manifest_path(shards: Path) -> Path:
    """Where a shards folder has its manifest."""
    return shards / "manifest.json"


def shard_path(shards: Path, case: str) -> Path:
    """Where a shards folder has the shard of a case."""
    return shards / "cases" / f"{case}.h5"


def write_manifest(shards: Path, manifest: Manifest) -> None:
    """Write the manifest, whole or not at all. Raises StorageError."""
    write_json(manifest_path(shards), manifest.model_dump(mode="json"))


def load_manifest(shards: Path) -> Manifest:
    """The manifest of a shards folder.

    Raises ShardError where there is none, or it does not fit, or it is of another schema version.
    """
    path = manifest_path(shards)
    try:
        document = read_json(path, what="shard manifest", remedy="name a folder that `mspipeline prepare` finished")
        if isinstance(document, dict) and document.get("schema_version") != SCHEMA_VERSION:
            raise ShardError(
                f"{path}: schema version {document.get('schema_version')}, expected {SCHEMA_VERSION}; "
                "prepare the scans again into a new folder"
            )
        manifest = parse(document, Manifest, where=str(path))
    except ShardError:
        raise
    except (DataError, ConfigError) as error:
        raise ShardError(str(error)) from error
    known = [entry.case for entry in manifest.cases]
    dealt = [*manifest.split.train, *manifest.split.validation, *manifest.split.test]
    if not known or sorted(known) != sorted(dealt):
        raise ShardError(f"{path}: its split does not name each of its {len(known)} cases once; {REMEDY}")
    return manifest


def verify_shards(
    shards: Path,
    manifest: Manifest,
    *,
    entries: Sequence[ShardEntry] | None = None,
    report: Callable[[str, int, int], None] | None = None,
) -> None:
    """Compare shards' SHA-256 with the manifest; `report(case, done, total)` after each.

    entries: those to look at; all of the manifest where None.
    Raises ShardError, one line that names every shard that is missing or has changed.
    """
    faults = []
    looked_at: Sequence[ShardEntry] = manifest.cases if entries is None else entries
    for done, entry in enumerate(looked_at, start=1):
        if fault := shard_fault(shards, entry):
            faults.append(f"{entry.file} {fault}")
        if report:
            report(entry.case, done, len(looked_at))
    raise_faults(shards, faults, len(looked_at))


def shard_fault(shards: Path, entry: ShardEntry) -> str | None:
    """What is wrong with one shard's file ("is missing", "has changed"), or None."""
    path = shards / entry.file
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != entry.bytes or sha256_file(path) != entry.sha256:
        return "has changed since it was written"
    return None


def raise_faults(shards: Path, faults: Sequence[str], total: int) -> None:
    """One ShardError for all faulty shards; nothing where there are none."""
    if not faults:
        return
    shown = ", ".join(faults[:5]) + (f" and {len(faults) - 5} more" if len(faults) > 5 else "")
    raise ShardError(f"{shards}: {len(faults)} of {total} shards are not as the manifest says ({shown}); {REMEDY}")
