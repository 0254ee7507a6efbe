"""The recipes by kind: those in files, those that shards and run records keep, and the built-in ones by name."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from mspipeline import recipes
from mspipeline.config import Strict, parse, read_config
from mspipeline.errors import ConfigError, nearest
from mspipeline.plugins import Registry, subclass_of
from mspipeline.recipes.base import Recipe, Schema

OLDEST = "slices2d"
"""What documents that do not say their kind are of: it came first."""
AnyRecipe = Recipe[Schema]


def _own() -> dict[str, type[AnyRecipe]]:
    """The `RECIPE` of module `recipe` in each folder of this package, by its kind."""
    folders = sorted(module.name for module in pkgutil.iter_modules(recipes.__path__) if module.ispkg)
    found = [import_module(f"{recipes.__name__}.{name}.recipe").RECIPE for name in folders]
    return {recipe.kind: recipe for recipe in found}


RECIPES = Registry("recipe", "mspipeline.recipes", _own(), subclass_of(Recipe, named_by="kind"))


def built_in() -> dict[str, Path]:
    """Name -> file of each recipe that comes with the suite."""
    return {path.stem: path for folder in recipes.__path__ for path in sorted(Path(folder).glob("*/*.toml"))}


def load_recipe(name_or_path: str | Path, overrides: Mapping[str, Any] | None = None) -> AnyRecipe:
    """A built-in recipe by name or one in a TOML file; keys of `overrides` replace those of the file.

    Raises ConfigError where there is no such recipe, or a key or value does not fit.
    """
    text, known = str(name_or_path), built_in()
    if text not in known and not Path(text).is_file():
        raise ConfigError(f"{text}: no such recipe, neither a file nor built in; {nearest(text, list(known))}")
    path = known.get(text, Path(text))
    recipe = _of_kind(read_config(path, _Kind).kind, where=str(path))
    settings = read_config(path, recipe.schema)
    if overrides:
        where = f"recipe {text} with its overrides"
        settings = parse({**settings.model_dump(), **overrides}, recipe.schema, where=where)
    return recipe(settings)


def recipe_of(document: Mapping[str, Any], *, where: str) -> AnyRecipe:
    """The recipe that a manifest or a run record keeps. where: names it in the error line.

    Raises ConfigError where it is of a kind that is not known here, or does not fit it.
    """
    recipe = _of_kind(str(document.get("kind", OLDEST)), where=where)
    return recipe(parse(document, recipe.schema, where=where))


class _Kind(Strict):
    """What a recipe's file makes, read before the rest of it."""

    model_config = ConfigDict(extra="ignore")
    kind: str = OLDEST


def _of_kind(kind: str, *, where: str) -> type[AnyRecipe]:
    try:
        return RECIPES[kind]
    except ConfigError as error:
        raise ConfigError(f"{where}: kind: {error}") from error
