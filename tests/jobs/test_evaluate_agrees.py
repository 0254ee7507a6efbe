"""Every network that can be trained: `evaluate` gives the score that validation gave, on the same voxels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mspipeline.backends.base import Execution
from mspipeline.config import (
    CascadeTraining,
    EvaluateJob,
    ModelSettings,
    PrepareJob,
    TrainingSettings,
    TrainJob,
)
from mspipeline.console import TrainingProgress
from mspipeline.errors import ShapeError
from mspipeline.jobs.work.evaluate import evaluate
from mspipeline.jobs.work.prepare import prepare
from mspipeline.jobs.work.train import train
from mspipeline.models import catalogue
from mspipeline.network.blocks import conv
from mspipeline.network.graph import Builder, Graph
from mspipeline.network.ops import Input, Relu, Softmax
from mspipeline.recipes.patches3d.predict import TrainedCascade
from mspipeline.recipes.patches3d.shard import PatchEntry, read_patch_case
from mspipeline.recipes.prediction import PredictionSettings
from mspipeline.recipes.slices2d.predict import TrainedSlices
from mspipeline.recipes.slices2d.shard import SliceEntry, read_slices
from mspipeline.recipes.trained import load_trained
from mspipeline.runs import RunPaths, read_rows
from mspipeline.shards.manifest import entries_as, load_manifest
from mspipeline.tables.schema import EPOCHS
from mspipeline.telemetry.events import EventWriter
from mspipeline.telemetry.schema import Identity
from mspipeline.volume import FloatArray

pytestmark = pytest.mark.usefixtures("backend_needed")
SIZE = (32, 32, 16)
BATCH = 8
PATCHES = 128


def two_classes(height: int, width: int, channels: int, *, base_width: int = 8) -> Graph:
    """A small network on slices that ends in a softmax over background and lesion, as DeepLab does."""
    builder = Builder("two_classes")
    x = builder.add("image", Input((height, width, channels)))
    for number in (1, 2):
        x = builder.add(f"act{number}", Relu(), conv(builder, f"conv{number}", x, base_width, (3, 3)))
    return builder.graph(builder.add("probability", Softmax(), conv(builder, "logits", x, 2, (1, 1))))


TRAINED: dict[str, dict[str, Any]] = {
    "two_classes": {},
    "unet2d": {"base_width": 4},
    "unet2d_report_tf": {},
    "unet2d_report_eddl": {},
    "double_unet": {"base_width": 16},
    "double_unet_report_tf": {},
    "double_unet_report_eddl": {},
    "deeplabv2": {"base_width": 4, "full_size": True},
    "deeplabv3": {"base_width": 4, "full_size": True},
    "cascade3d": {"base_width": 4},
    "nicms": {},
}
"""The networks that can be trained, as narrow as their arguments let them be."""
REFUSED = {
    "cascade3d_report_tf": r"gives \(2,\) after Dense, expected probabilities of a patch, \(1,\) of a sigmoid",
    "cascade3d_report_eddl": r"gives \(1,\) after Dense, expected probabilities of a patch, \(1,\) of a sigmoid",
    "vnet": r"gives \(16, 16, 16, 2\) after Softmax, expected probabilities of a patch, \(1,\) of a sigmoid or \(2,\)",
    "nnunet3d": r"gives \(16, 16, 16, 2\), .* after Conv, expected probabilities of a patch, \(1,\) of a sigmoid",
    "deeplabv2": r"gives \(5, 5, 2\) after Add, expected probabilities of a voxel, .* deeplabv3 with full_size=true",
    "deeplabv3": r"gives \(3, 3, 2\) after Conv, expected probabilities of a voxel, .* deeplabv3 with full_size=true",
}
"""Those that cannot as they stand: logits, or a map where a patch has one label. DeepLab can, with full_size."""
FAST = ("two_classes", "unet2d", "cascade3d")
"""One of each kind of output: a softmax over two classes and a sigmoid on slices, a cascade on patches."""
LONG = (pytest.mark.long, pytest.mark.timeout(1800))
"""Double U-Net and DeepLab take minutes on a busy machine."""


def on_patches(name: str) -> bool:
    return len(catalogue.entry(name).image_axes) == 4


@pytest.fixture(autouse=True)
def small_two_class_network(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = catalogue.ModelEntry(two_classes, "two classes", catalogue.SLICE)
    monkeypatch.setitem(catalogue.MODELS.built_in, "two_classes", entry)


@pytest.fixture(scope="module")
def slices(small_shards: Path) -> Path:
    return small_shards


@pytest.fixture(scope="module")
def patches(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patches of which every brain voxel is a candidate, so that all lesion voxels are; two modalities, for nicms."""
    folder = tmp_path_factory.mktemp("agree") / "patches"
    overrides = {"candidates_above": -1e6, "modalities": ["FLAIR", "T1w"]}
    prepare(PrepareJob(dataset=small_dataset, output=folder, recipe="patches3d"), recipe_overrides=overrides)
    return folder


def job_of(name: str, shards: Path, folder: Path, threshold: float = 0.5) -> TrainJob:
    """Some steps, small ones, so that no wide network goes to 0 everywhere.

    On patches one stage, that is validated on every brain voxel; every voxel found stays.
    """
    whole = CascadeTraining(stages=1, negatives=1e6, larger_than_vox=0, min_total_ml=0)
    return TrainJob(
        model=ModelSettings(name=name, arguments=TRAINED.get(name, {})),
        shards=shards,
        run_folder=folder / "run",
        threads=2,
        training=TrainingSettings(
            epochs=1,
            batch_size=PATCHES if on_patches(name) else BATCH,
            learning_rate=1e-5,
            threshold=threshold,
            cascade=whole,
        ),
    )


def run(job: TrainJob) -> None:
    with EventWriter(None, Identity("")) as events, TrainingProgress(enabled=False) as observer:
        train(job, events=events, observer=observer, stop=lambda: None)


def lesion_probability(job: TrainJob) -> FloatArray:
    """What the trained network says of the voxels that are lesions in the validation case."""
    execution = Execution(device="cpu", threads=2)
    trained = load_trained(job.run_folder, PredictionSettings("last", execution))
    manifest = load_manifest(job.shards)
    if isinstance(trained, TrainedCascade):
        (patches,) = entries_as(PatchEntry, manifest.subset("validation"))
        volume = read_patch_case(job.shards, patches)
        return trained.stages[0].predict(volume.image, volume.voxels.lesions, batch_size=PATCHES)
    assert isinstance(trained, TrainedSlices)
    (entry,) = entries_as(SliceEntry, manifest.subset("validation"))
    case = read_slices(job.shards, entry)
    channel = {1: 0, 2: 1}[trained.backend.predict(case.images[:1]).shape[-1]]  # targets are one-hot, background first
    return trained.backend.predict(case.images)[..., channel][case.scan_mask.transpose(2, 0, 1) == 1]


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in FAST else LONG) for name in TRAINED])
def test_evaluate_gives_the_dice_of_validation(name: str, slices: Path, patches: Path, tmp_path: Path) -> None:
    """Trained twice: the first time shows which threshold half of the lesion voxels reach, so that Dice is not 0.

    DeepLab's running statistics are far from the data's after some steps: its probabilities may be 0 everywhere, and
    Dice with them. From the background's channel it would then find all voxels.
    """
    shards = patches if on_patches(name) else slices
    first = job_of(name, shards, tmp_path / "first")
    run(first)
    threshold = float(np.clip(0.999 * np.median(lesion_probability(first)), 1e-6, 0.999))
    job = job_of(name, shards, tmp_path / "second", threshold=threshold)
    run(job)
    *_, validation = read_rows(RunPaths(job.run_folder).epochs, EPOCHS).to_pylist()
    scoring = EvaluateJob(
        run_folder=job.run_folder,
        shards=job.shards,
        subsets=("validation",),
        checkpoint="last",
        device="cpu",
        batch_size=job.training.batch_size,
        threads=2,
    )
    with EventWriter(None, Identity("")) as events:
        (row,) = evaluate(scoring, events=events, stop=lambda: None)
    assert validation["subset"] == "validation"
    assert 0 <= validation["dice"] < 1
    assert validation["dice"] > 0 or name.startswith("deeplab")
    assert row["dice"] == pytest.approx(validation["dice"], abs=1e-6)
    assert row["device"] == "CPU"


@pytest.mark.parametrize("name", REFUSED)
def test_a_network_that_cannot_be_trained_is_refused_in_one_line(
    name: str, slices: Path, small_dataset: Path, tmp_path: Path
) -> None:
    shards = slices
    if on_patches(name):
        shards = tmp_path / "shards"
        size = [11, 11, 11] if name.startswith("cascade3d") else [16, 16, 16]
        overrides = {"patch_size": size, "modalities": ["FLAIR"]}
        prepare(PrepareJob(dataset=small_dataset, output=shards, recipe="patches3d"), recipe_overrides=overrides)
    job = job_of(name, shards, tmp_path).model_copy(update={"model": ModelSettings(name=name)})
    with pytest.raises(ShapeError, match=f"^{name}: {REFUSED[name]}") as refused:
        run(job)
    assert "\n" not in str(refused.value)
    assert not job.run_folder.exists()


def test_every_network_of_the_catalogue_is_in_one_of_these_lists() -> None:
    assert set(TRAINED) | set(REFUSED) == set(catalogue.MODELS)
