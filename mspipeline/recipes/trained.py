"""A trained run, ready to predict, whatever its recipe."""

from __future__ import annotations

from pathlib import Path

from mspipeline.recipes.catalogue import AnyRecipe, recipe_of
from mspipeline.recipes.prediction import PredictionSettings, Trained
from mspipeline.runs import RunPaths, RunRecord, read_record


def recipe_of_run(folder: Path) -> tuple[RunRecord, AnyRecipe]:
    """The record of a run folder, and the recipe that it was trained by.

    Raises RunFolderError where there is none, ConfigError where its recipe is not known here.
    """
    paths = RunPaths(folder)
    record = read_record(paths)
    return record, recipe_of(record.recipe, where=f"{paths.record}: recipe")


def load_trained(folder: Path, how: PredictionSettings) -> Trained:
    """What a run folder holds. Raises as `recipe_of_run` and `Recipe.load`."""
    record, recipe = recipe_of_run(folder)
    return recipe.load(RunPaths(folder), record, how)
