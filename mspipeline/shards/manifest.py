"""The manifest of a shards folder: what was prepared, by which recipe, and which case is in which subset.

SHARDS/
  manifest.json          written last: a folder without it is unfinished
  cases/<case>.h5
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from mspipeline.config import Strict, parse
from mspipeline.datasets.split import Split, Subset
from mspipeline.errors import ConfigError, DataError, ShardError
from mspipeline.files import read_json, sha256_file, write_json
from mspipeline.labels import LabelSet, read_stored
from mspipeline.preprocess.brain import BrainOrigin
from mspipeline.preprocess.lesion_counts import LesionCounts

SCHEMA_VERSION = 2
"""Of manifests with a label set of their own. Those of lesion masks are of version 1, as before there were others."""
REMEDY = "run `mspipeline prepare` again, it makes only what is missing"


class ShardEntry(Strict):
    """One shard, whatever it holds. file: relative to the shards folder. sha256, bytes: of that file.

    counts: of the lesions in its mask file and on the way to what is stored; None in shards from before it was counted.
    brain: where the case's brain comes from; None of shards of earlier versions.
    label_voxels: of each label in what is stored; None, and not in the manifest, where masks are of lesions alone.
    A recipe's own entries are subclasses with keys of their own, which a manifest keeps as they are (see `entries_as`).
    """

    model_config = ConfigDict(extra="allow")

    case: str
    file: str
    sha256: str
    bytes: int
    counts: LesionCounts | None = None
    brain: BrainOrigin | None = None
    label_voxels: dict[str, int] | None = None

    @model_serializer(mode="wrap")
    def _as_before(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The keys of lesion masks are those of before there were label sets."""
        keys: dict[str, Any] = serialize(self)
        return keys if self.label_voxels is not None else {k: v for k, v in keys.items() if k != "label_voxels"}


Entry = TypeVar("Entry", bound=ShardEntry)


def entries_as(schema: type[Entry], entries: Iterable[ShardEntry]) -> list[Entry]:
    """A manifest's entries as a recipe has them. Raises ShardError where one is none of that recipe's."""
    try:
        return [
            parse(entry.model_dump(mode="json"), schema, where=f"shard of case {entry.case} in the manifest")
            for entry in entries
        ]
    except ConfigError as error:
        raise ShardError(f"{error}; prepare the scans again into a new folder") from error


class SkippedCase(Strict):
    """A case that `--skip-incomplete` left out, and why."""

    case: str
    reason: str


class Manifest(Strict):
    """`manifest.json`. Hashes are SHA-256 in hexadecimal.

    dataset_hash: over case ids, modalities and the SHA-256 of every source file, and the label set, where it is not
        lesions.
    recipe: as it was applied, every number of it.
    warnings: what was noticed about the dataset, a line each; `prepare` shows them.
    others: kind -> how many images the dataset has of kinds that the recipe did not ask for.
    resampled: case -> file -> how it came onto the grid of the recipe's `resample_to`: "headers", or its transforms.
    offsets_mm: case -> file -> how far its grid lies from that of the first scan (of `resample_to`), where it was taken
        for the same and the difference is above what headers round away.
    labels: what masks hold, see `labels.LabelSet`; None, and not in the file, of lesions.
    """

    schema_version: int = 1
    dataset_name: str
    dataset_hash: str
    recipe: dict[str, Any]
    recipe_hash: str
    channels: tuple[str, ...]
    split: Split
    split_hash: str
    cases: tuple[ShardEntry, ...]
    skipped: tuple[SkippedCase, ...] = ()
    warnings: tuple[str, ...] = ()
    others: dict[str, int] = Field(default_factory=dict)
    resampled: dict[str, dict[str, str]] = Field(default_factory=dict)
    offsets_mm: dict[str, dict[str, float]] = Field(default_factory=dict)
    labels: dict[str, Any] | None = None

    @field_validator("cases")
    @classmethod
    def _as_read(cls, cases: tuple[ShardEntry, ...]) -> tuple[ShardEntry, ...]:
        """A recipe's own entries as they come back from the file: an equal manifest is then equal."""
        return tuple(
            entry if type(entry) is ShardEntry else ShardEntry.model_validate(entry.model_dump(mode="json"))
            for entry in cases
        )

    @property
    def label_set(self) -> LabelSet:
        """What masks hold."""
        return read_stored(self.labels, where="labels of the manifest")

    @property
    def brain_sources(self) -> dict[str, int]:
        """How many cases have their brain from which source, "mask" or "nonzero"; without those of earlier versions."""
        return dict(Counter(entry.brain.source for entry in self.cases if entry.brain is not None))

    def subset(self, name: Subset) -> list[ShardEntry]:
        """The cases of a subset, in the split's order; an empty list where it has none."""
        entries = {entry.case: entry for entry in self.cases}
        return [entries[case] for case in self.split.cases(name)]


def manifest_path(shards: Path) -> Path:
    """Where a shards folder has its manifest."""
    return shards / "manifest.json"


def shard_path(shards: Path, case: str) -> Path:
    """Where a shards folder has the shard of a case."""
    return shards / "cases" / f"{case}.h5"


def write_manifest(shards: Path, manifest: Manifest) -> None:
    """Write the manifest, whole or not at all. Raises StorageError."""
    lesions = {"labels"} if manifest.labels is None else None
    write_json(manifest_path(shards), manifest.model_dump(mode="json", exclude=lesions))


def load_manifest(shards: Path) -> Manifest:
    """The manifest of a shards folder.

    Raises ShardError where there is none, or it does not fit, or it is of another schema version.
    """
    path = manifest_path(shards)
    try:
        document = read_json(path, what="shard manifest", remedy="name a folder that `mspipeline prepare` finished")
        if isinstance(document, dict):
            version = document.get("schema_version")
            if version not in (1, SCHEMA_VERSION):
                raise ShardError(
                    f"{path}: schema version {version}, expected at most {SCHEMA_VERSION}; "
                    "read them with the version that made them, or prepare the scans again into a new folder"
                )
            if (version == 1) != (document.get("labels") is None):
                raise ShardError(
                    f"{path}: schema version {version} {'without' if version > 1 else 'with'} labels; prepare the "
                    "scans again into a new folder"
                )
        manifest = parse(document, Manifest, where=str(path))
        read_stored(manifest.labels, where=f"{path}: labels")
    except ShardError:
        raise
    except (DataError, ConfigError) as error:
        raise ShardError(str(error)) from error
    known = [entry.case for entry in manifest.cases]
    dealt = [*manifest.split.train, *manifest.split.validation, *manifest.split.test]
    if not known or sorted(known) != sorted(dealt):
        raise ShardError(f"{path}: its split does not name each of its {len(known)} cases once; {REMEDY}")
    return manifest


def missing_labels(manifest: Manifest) -> list[str]:
    """Labels that no training case has; none where entries do not say, as of lesion masks."""
    counts = [entry.label_voxels for entry in manifest.subset("train") if entry.label_voxels is not None]
    return [label for label in manifest.label_set.foreground if counts and not any(each.get(label) for each in counts)]


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
