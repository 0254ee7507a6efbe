"""What was prepared."""

from __future__ import annotations

from pathlib import Path

from mspipeline.console import say_warning, stdout
from mspipeline.files import read_json
from mspipeline.labels import LESIONS
from mspipeline.preprocess.brain import counted
from mspipeline.recipes.catalogue import recipe_of
from mspipeline.shards.manifest import Manifest

CASES_SHOWN = 3
"""Lines of one kind that are printed; the manifest has them all."""


def print_manifest(manifest: Manifest, folder: Path) -> None:
    """What was prepared, what was not used of the dataset, and the next command; warnings on stderr."""
    recipe = recipe_of(manifest.recipe, where=f"{folder}: recipe")
    for warning in manifest.warnings:
        say_warning(warning)
    subsets = ", ".join(f"{len(manifest.split.cases(subset))} {subset}" for subset in ("train", "validation", "test"))
    stdout.print(
        f"{folder}: {len(manifest.cases)} cases ({subsets}), {recipe.contents(manifest)} of "
        f"{'x'.join(map(str, recipe.image_shape))} ({', '.join(manifest.channels)}), "
        f"recipe {manifest.recipe_hash[:12]}"
    )
    if sources := counted(manifest.brain_sources):
        stdout.print(f"  brain: {sources}")
    for skipped in manifest.skipped:
        stdout.print(f"  left out {skipped.case}: {skipped.reason}")
    if manifest.others:
        others = ", ".join(f"{count} {kind}" for kind, count in sorted(manifest.others.items()))
        stdout.print(f"  not asked for by the recipe: {others}")
    for line in _near(manifest):
        stdout.print(f"  {line}")
    if not manifest.split.validation:
        stdout.print(f"  no case is held out for validation: {recipe.unvalidated}")
    labels = manifest.label_set
    if labels != LESIONS:
        regions = "; ".join(f"{name}: {' + '.join(united)}" for name, united in labels.regions.items())
        stdout.print(f"  labels: {labels.words}{'; ' if regions else ''}{regions}")
    classes = f" --set classes={len(labels.names)}" if len(labels.names) > 2 else ""
    stdout.print(f"next: mspipeline train {recipe.example_network} {folder}{classes}")


def _near(manifest: Manifest) -> list[str]:
    """Files that are nearly on the grid of their scan, the first ones by name."""
    reference = manifest.recipe.get("resample_to") or manifest.channels[0]
    near = [
        f"{case}: the grid of {name} is {offset:.3g} mm off that of {reference}, less than a tenth of a voxel: taken "
        "as it is"
        for case, offsets in manifest.offsets_mm.items()
        for name, offset in offsets.items()
    ]
    more = len(near) - CASES_SHOWN
    return near[:CASES_SHOWN] + ([f"and {more} more like these, see manifest.json"] if more > 0 else [])


def print_derivative(folder: Path) -> None:
    """Where the maps are, and where the brains came from."""
    description = read_json(folder / "dataset_description.json", what="description", remedy="predict again")
    stdout.print(f"{description['Name'].partition(' by ')[0].lower()} are in {folder}")
    if sources := counted(description["BrainSources"]):
        stdout.print(f"  brain: {sources}")
