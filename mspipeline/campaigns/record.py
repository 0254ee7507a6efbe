"""`campaign.json`: what a campaign is, written before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from mspipeline.campaigns.site import Site
from mspipeline.campaigns.sweep import Sweep
from mspipeline.config import PrepareJob, Strict
from mspipeline.errors import ConfigError, DataError, ShardError
from mspipeline.files import read_json
from mspipeline.recipes.catalogue import AnyRecipe, load_recipe, recipe_of

HASHES = ("dataset_hash", "recipe_hash", "split_hash")


class CampaignRecord(Strict):
    """`campaign.json`. manifest: hashes of the shards' manifest; empty while they are still to be made.

    cells: their ids, in order. prepare: how the shards are made, where the campaign does it. collect: whether tables
    are made when the cells are over. recipe: of the shards; records of earlier versions are completed on opening them.
    """

    schema_version: Literal[1] = 1
    created_utc: str
    sweep: Sweep
    shards: Path
    site: Site
    manifest: dict[str, str]
    cells: tuple[str, ...]
    prepare: PrepareJob | None = None
    collect: bool = False
    recipe: dict[str, Any] = Field(default_factory=dict)


def manifest_path(shards: Path) -> Path:
    """The file that is written last: where it is, the shards are whole."""
    return shards / "manifest.json"


def manifest_hashes(shards: Path) -> dict[str, str]:
    """The hashes that say which data these shards hold. Raises ShardError."""
    remedy = "make it with `mspipeline prepare`"
    try:
        manifest = read_json(manifest_path(shards), what="shard manifest", remedy=remedy)
        return {name: str(manifest[name]) for name in HASHES}
    except DataError as error:
        raise ShardError(str(error)) from error
    except (KeyError, TypeError) as error:
        raise ShardError(f"{manifest_path(shards)}: not a shard manifest ({error} is missing); {remedy}") from error


def recipe_for(shards: Path, prepare: PrepareJob | None) -> AnyRecipe:
    """The recipe that shards were made by, or are to be made by. The oldest where neither can be told any more.

    Raises DataError where the manifest cannot be read, ConfigError where the recipe does not fit.
    """
    path = manifest_path(shards)
    if path.exists():
        document = read_json(path, what="shard manifest", remedy="make it with `mspipeline prepare`")
        return recipe_of(document.get("recipe", {}), where=f"{path}: recipe")
    return recipe_of({}, where=str(shards)) if prepare is None else load_recipe(prepare.recipe)


def same_or_refuse(folder: Path, there: CampaignRecord, wanted: CampaignRecord) -> None:
    """Raise ConfigError where a campaign that exists is not the one asked for."""
    compared = {"sweep", "shards", "site", "prepare", *(["manifest"] if there.manifest and wanted.manifest else [])}
    differences = _differences(
        there.model_dump(mode="json", include=compared), wanted.model_dump(mode="json", include=compared)
    )
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise ConfigError(
            f"{folder}: holds another campaign ({'; '.join(differences[:3])}{more}); "
            "choose another output folder, or run the sweep file it was made with"
        )


def _differences(there: Any, wanted: Any, key: str = "") -> list[str]:
    """Where two pieces of plain data differ, in words."""
    if isinstance(there, dict) and isinstance(wanted, dict):
        found = []
        for name in dict.fromkeys([*there, *wanted]):
            found += _differences(there.get(name), wanted.get(name), f"{key}.{name}".lstrip("."))
        return found
    return [] if there == wanted else [f"{key} is {there!r} there, {wanted!r} here"]
