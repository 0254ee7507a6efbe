"""Which slices a training gets: transforms change those that are trained on, validation sees the slices as they are."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mspipeline.config import TrainingSettings, TrainJob, parse_assignments
from mspipeline.errors import ConfigError
from mspipeline.models.catalogue import build
from mspipeline.recipes.catalogue import recipe_of
from mspipeline.recipes.slices2d.train import train_on_slices
from mspipeline.recipes.training import TrainingRun
from mspipeline.runs import RunPaths
from mspipeline.shards.manifest import load_manifest
from mspipeline.telemetry.events import EventWriter
from mspipeline.telemetry.schema import Identity
from mspipeline.training.progress import Progress, TrainingStage
from mspipeline.training.protocols import BatchReader
from mspipeline.transforms.registry import TRANSFORMS
from tests.jobs.test_train import Recorder

TURNED = {"transforms": [{"name": "flip", "axes": [0]}, {"name": "brightness", "probability": 1.0, "factor": [2, 2]}]}


@dataclass
class Images:
    """A training that reads its batches and learns nothing."""

    train: np.ndarray = field(default_factory=lambda: np.empty(0))
    validation: np.ndarray = field(default_factory=lambda: np.empty(0))

    def begin(self, train: BatchReader, validation: BatchReader | None, stage: TrainingStage | None) -> Images:
        assert validation is not None
        self.train, self.validation = (
            np.concatenate([batch.images for batch in reader.epoch(0)]) for reader in (train, validation)
        )
        return self

    def run(self) -> Progress:
        return Progress()


def images(job: TrainJob) -> Images:
    manifest, found = load_manifest(job.shards), Images()
    with EventWriter(None, Identity("run")) as events:
        graph = build("unet2d", (32, 32, 1), {"base_width": 2})
        paths, stop = RunPaths(job.run_folder), lambda: None
        run = TrainingRun(job, manifest, graph, paths, "", 1, found.begin, events, Recorder(), stop)
        train_on_slices(run, 8)
    return found


def test_transforms_change_what_is_trained_on_alone(train_job: TrainJob) -> None:
    changed = train_job.training.model_copy(update={"recipe": TURNED})
    plain, turned = images(train_job), images(train_job.model_copy(update={"training": changed}))
    assert np.array_equal(plain.validation, turned.validation)
    as_it_was = [np.array_equal(2 * one, two) for one, two in zip(plain.train, turned.train, strict=True)]
    flipped = [np.array_equal(2 * one[::-1], two) for one, two in zip(plain.train, turned.train, strict=True)]
    assert all(np.logical_or(as_it_was, flipped))
    assert 8 <= sum(flipped) <= 24  # of 32 slices, a standard deviation is 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"transform": []}, "training.recipe: unknown key 'transform'; did you mean 'transforms'? valid: transforms"),
        (
            {"transforms": [{"name": "flipp"}]},
            "training.recipe.transforms[0]: unknown transform 'flipp'; did you mean 'flip'",
        ),
        ({"transforms": [{"name": "flip", "axes": [2]}]}, "transforms[0] (flip): axes: expected different ones"),
        ({"transforms": "flip"}, "training.recipe: transforms: input should be a valid tuple; received: 'flip'"),
    ],
)
def test_what_does_not_fit_is_answered_before_anything_is_trained(
    small_shards: Path, settings: dict[str, Any], words: str
) -> None:
    recipe = recipe_of(load_manifest(small_shards).recipe, where="manifest")
    with pytest.raises(ConfigError) as error:
        recipe.check_training(TrainingSettings(recipe=settings))
    assert words in str(error.value)


def test_the_transforms_of_the_guide_are_what_it_says(small_shards: Path) -> None:
    guide = (Path(__file__).parents[3] / "docs" / "guide.md").read_text()
    block = guide[guide.index("    [recipe]\n    transforms") :].partition("\n\n")[0]
    in_file = tomllib.loads(block)["recipe"]
    (assigned,) = re.findall(r"--set 'training\.recipe\.(transforms=.+)'", guide)
    recipe = recipe_of(load_manifest(small_shards).recipe, where="manifest")
    for settings in (in_file, parse_assignments([assigned])):
        recipe.check_training(TrainingSettings(recipe=settings))
    assert [each["name"] for each in in_file["transforms"]] == ["flip", "gaussian_noise", "gamma"]
    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]+\| (.+) \|$", guide, re.MULTILINE))
    for name, kind in TRANSFORMS.built_in.items():
        said = {key: json.loads(value) for key, value in re.findall(r"`(\w+)` (\[[^]]+\]|[\w.]+)", rows[name])}
        defaults = {key: json.loads(json.dumps(each.get_default())) for key, each in kind.model_fields.items()}
        assert {"probability": 1, **said} == defaults
