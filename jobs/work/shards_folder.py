"""The folder that `prepare` writes to: what may be in it already, and what of that is kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mspipeline import files
from mspipeline.errors import ShardError, UsageError
from mspipeline.files import PARTIAL
from mspipeline.shards import lock
from mspipeline.shards.manifest import Manifest, load_manifest, manifest_path

TIMES = "prepare.json"
"""Beside the manifest: how the last prepare that made a shard went. Not part of what is the same on every machine."""
JSON_FILES = ("manifest", "prepare")
"""Stems of the files beside the shards."""


def check_output(output: Path) -> None:
    """Raises UsageError where the output is a file, or a folder that holds anything but shards."""
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output}: a file, expected a folder for the shards; choose another")
    if not output.is_dir():
        return
    ours = {"manifest.json", TIMES, lock.NAME, "cases"}
    strange = sorted(
        child.name
        for child in output.iterdir()
        if child.name not in ours and not (child.suffix == PARTIAL and child.name.split(".json.")[0] in JSON_FILES)
    )
    cases = output / "cases"
    if cases.is_dir():
        strange += sorted(
            f"cases/{child.name}"
            for child in cases.iterdir()
            if child.suffix != ".h5" and not (child.suffix == PARTIAL and ".h5." in child.name)
        )
    if strange:
        raise UsageError(
            f"{output}: not empty and not a shards folder (holds {', '.join(strange[:4])}); choose a new folder"
        )


def remove_partials(output: Path) -> None:
    """Remove what killed runs left half-written. The caller holds the folder: nobody writes to these any more."""
    files.remove_partials(output)
    files.remove_partials(output / "cases")


def check_strays(output: Path, cases: Iterable[str]) -> None:
    """Raises ShardError where the output holds shards of other cases than these."""
    known = set(cases)
    strays = sorted(path.stem for path in (output / "cases").glob("*.h5") if path.stem not in known)
    if strays:
        raise ShardError(
            f"{output}: holds shards of cases that are not prepared now ({', '.join(strays[:5])}); "
            "choose another output folder, or delete this one"
        )


def previous_manifest(output: Path, recipe: Mapping[str, Any], recipe_hash: str, dataset_hash: str) -> Manifest | None:
    """The manifest that is there already; None where there is none. recipe: as a manifest has it.

    Raises ShardError where it is of another recipe or dataset.
    """
    if not manifest_path(output).exists():
        return None
    previous = load_manifest(output)
    if previous.recipe_hash != recipe_hash:
        before = previous.recipe
        changed = [key for key, value in recipe.items() if before.get(key) != value]
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
