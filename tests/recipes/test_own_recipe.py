"""A recipe that the suite does not know does all that the built-in ones do: nothing else is touched for it."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mspipeline.commands.display import print_derivative, print_manifest
from mspipeline.config import (
    EvaluateJob,
    ModelSettings,
    PredictJob,
    PrepareJob,
    SplitSettings,
    TrainingSettings,
    TrainJob,
)
from mspipeline.console import TrainingProgress
from mspipeline.errors import ConfigError
from mspipeline.files import read_json
from mspipeline.jobs.work.evaluate import evaluate
from mspipeline.jobs.work.predict import predict
from mspipeline.jobs.work.prepare import prepare
from mspipeline.jobs.work.train import train
from mspipeline.recipes.catalogue import RECIPES, load_recipe
from mspipeline.runs import RunPaths, read_record
from mspipeline.telemetry.events import EventWriter
from mspipeline.telemetry.schema import Identity
from tests.conftest import SMALL_UNET
from tests.plugins.recipe import Pictures2d, PictureSchema


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four pictures of a bright square, which is the lesion, and the recipe that knows them."""
    monkeypatch.setitem(RECIPES.built_in, "pictures2d", Pictures2d)
    random = np.random.default_rng(0)
    for number in range(4):
        folder = tmp_path / "pictures" / f"case-{number}"
        folder.mkdir(parents=True)
        mask = np.zeros((16, 16), np.uint8)
        mask[4 + number : 9 + number, 5:10] = 1
        np.save(folder / "mask.npy", mask)
        np.save(folder / "image.npy", 200.0 * mask + random.integers(0, 40, mask.shape))
    (tmp_path / "own.toml").write_text('kind = "pictures2d"\n')
    return tmp_path


@pytest.mark.usefixtures("backend_needed")
def test_a_recipe_of_ones_own_prepares_trains_scores_and_predicts(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards, run = pictures / "shards", pictures / "run"
    asked = PrepareJob(
        dataset=pictures / "pictures",
        output=shards,
        recipe=str(pictures / "own.toml"),
        split=SplitSettings(validation=0.25, test=0.25),
    )
    manifest = prepare(asked)
    assert (manifest.recipe["kind"], manifest.channels, manifest.brain_sources) == ("pictures2d", ("gray",), {})
    (shards / "manifest.json").unlink()
    assert prepare(asked) == manifest  # its shards are read back
    print_manifest(manifest, shards)
    training = TrainingSettings(epochs=1, learning_rate=1e-2, warmup_steps=0, recipe={"mirror": True})
    job = TrainJob(model=SMALL_UNET, shards=shards, run_folder=run, threads=2, device="cpu", training=training)
    with EventWriter(None, Identity("")) as events, TrainingProgress(enabled=False) as observer:
        train(job, events=events, observer=observer, stop=lambda: None, origin={})
        rows = evaluate(EvaluateJob(run_folder=run, shards=shards, threads=2), events=events, stop=lambda: None)
        asked_for = PredictJob(run_folder=run, dataset=pictures / "pictures", output=pictures / "maps", threads=2)
        maps = predict(asked_for, events=events, stop=lambda: None)
        with pytest.raises(ConfigError, match="recipe pictures2d looks for no brain"):
            predict(asked_for.model_copy(update={"brain": "mask"}), events=events, stop=lambda: None)
    record = read_record(RunPaths(run))
    assert (record.monitor, record.prediction) == ("validation_dice", {"mirrored": True})
    with pytest.raises(ConfigError, match=r"training\.recipe: unknown key 'miror'; did you mean 'mirror'"):
        Pictures2d(PictureSchema()).check_training(TrainingSettings(recipe={"miror": True}))
    with pytest.raises(ConfigError, match="recipe patches3d has no settings of its own; remove mirror"):
        load_recipe("patches3d").check_training(training)
    assert [row["subset"] for row in rows] == ["validation", "test"]
    assert [row["truth_ml"] for row in rows] == pytest.approx([0.025, 0.025])
    assert [made.case for made in maps] == [f"case-{number}" for number in range(4)]
    assert nib.nifti1.load(maps[0].probability).shape == (16, 16, 1)
    sidecar = read_json(maps[0].mask.with_name("case-0_label-lesion_mask.json"), what="", remedy="")
    assert sidecar == {"Type": "Lesion", "Sources": ["bids:scans:case-0/image.npy"]}
    print_derivative(maps[0].mask.parents[2])
    printed = " ".join(capsys.readouterr().out.split())
    assert "4 cases (2 train, 1 validation, 1 test), 4 pictures of 16x16x1 (gray)" in printed
    assert "next: mspipeline train unet2d" in printed


def test_shards_of_a_recipe_that_is_not_here_are_named(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = PrepareJob(dataset=pictures / "pictures", output=pictures / "shards", recipe=str(pictures / "own.toml"))
    prepare(asked)
    monkeypatch.delitem(RECIPES.built_in, "pictures2d")
    job = TrainJob(model=ModelSettings(name="unet2d"), shards=pictures / "shards", run_folder=pictures / "run")
    with (
        EventWriter(None, Identity("")) as events,
        TrainingProgress(enabled=False) as observer,
        pytest.raises(ConfigError, match=r"shards: recipe: kind: unknown recipe 'pictures2d'; .*patches3d, slices2d"),
    ):
        train(job, events=events, observer=observer, stop=lambda: None)
