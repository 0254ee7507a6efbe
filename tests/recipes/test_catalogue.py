"""mspipeline.recipes.catalogue: recipes by kind, those of other packages too."""

from __future__ import annotations

from typing import Any

import pytest

from mspipeline.errors import ConfigError
from mspipeline.plugins import subclass_of
from mspipeline.recipes.base import Recipe
from mspipeline.recipes.catalogue import RECIPES, built_in, load_recipe, recipe_of
from mspipeline.recipes.patches3d.recipe import Patches3d
from mspipeline.recipes.slices2d.recipe import Slices2d
from tests.plugins.broken_recipe import Unfinished
from tests.plugins.recipe import Pictures2d, PictureSchema


def test_each_folder_is_a_recipe_with_a_file_of_its_defaults() -> None:
    assert dict(RECIPES.built_in) == {"patches3d": Patches3d, "slices2d": Slices2d}
    for name in RECIPES.built_in:
        recipe = load_recipe(name)
        assert (recipe.kind, built_in()[name].parent.name) == (name, name)
        assert recipe == recipe_of(recipe.document, where="document")


def test_what_does_not_say_its_kind_is_of_the_oldest() -> None:
    assert recipe_of({"size": [8, 8, 8]}, where="manifest").image_shape == (8, 8, 1)


def test_a_kind_that_is_not_here_is_answered_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"^run\.json: kind: unknown recipe 'slices3d'; did you mean 'slices2d'\?"):
        recipe_of({"kind": "slices3d"}, where="run.json")


@pytest.mark.parametrize(
    ("name", "made", "words"),
    [
        ("pictures2d", PictureSchema, "expected a subclass of mspipeline.recipes.base.Recipe"),
        ("pictures", Pictures2d, "its kind is 'pictures2d', expected the name of its entry point, 'pictures'"),
        ("unfinished", Unfinished, "it lacks channels, contents, find, has_dice, inputs, inspect, load"),
    ],
)
def test_what_a_package_gives_is_checked(name: str, made: Any, words: str) -> None:
    recipe_class = subclass_of(Recipe, named_by="kind")
    assert recipe_class("pictures2d", Pictures2d) is Pictures2d
    with pytest.raises(ValueError, match=words):
        recipe_class(name, made)
