"""One real patient from scan to lesion map, measured with nothing but nibabel and NumPy."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mspipeline.config import EvaluateJob, ModelSettings, PredictJob, PrepareJob, TrainingSettings, TrainJob
from mspipeline.console import TrainingProgress
from mspipeline.jobs.work.evaluate import evaluate
from mspipeline.jobs.work.predict import predict
from mspipeline.jobs.work.prepare import prepare
from mspipeline.jobs.work.train import train
from mspipeline.telemetry.events import EventWriter
from mspipeline.telemetry.schema import Identity

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.usefixtures("backend_needed")]

SCAN = "sub-slicer01/anat/sub-slicer01_FLAIR.nii.gz"
TRUTH = "derivatives/lesions/sub-slicer01/anat/sub-slicer01_label-lesion_mask.nii.gz"
DICE_EXPECTED = 0.5
"""One that learnt nothing, or whose map lies beside its truth, has 0.01. By the defaults it is 0.71; by soft Dice
alone, with larger steps, it was 0.37.
"""


def test_a_real_case_is_learnt_and_its_map_overlaps_its_truth_voxel_by_voxel(real_data: Path, tmp_path: Path) -> None:
    dataset, shards, run_folder = real_data / "ms-tiny", tmp_path / "shards", tmp_path / "run"
    prepare(
        PrepareJob(dataset=dataset, output=shards),
        recipe_overrides={"size": (64, 64, 64), "drop_slices_without_brain": True},
    )
    job = TrainJob(
        model=ModelSettings(name="unet2d", arguments={"base_width": 8}),
        shards=shards,
        run_folder=run_folder,
        threads=2,
        training=TrainingSettings(epochs=80),
    )
    with EventWriter(None, Identity("")) as events, TrainingProgress(enabled=False) as observer:
        record = train(job, events=events, observer=observer, stop=lambda: None)
        (row,) = evaluate(
            EvaluateJob(run_folder=run_folder, shards=shards, subsets=("train",), threads=2),
            events=events,
            stop=lambda: None,
        )
        (maps,) = predict(
            PredictJob(run_folder=run_folder, dataset=dataset, output=tmp_path / "maps", threads=2),
            events=events,
            stop=lambda: None,
        )
    assert record.monitor == "train_loss"  # one case: nothing is held out

    scan, truth, mask = (nib.nifti1.load(path) for path in (dataset / SCAN, dataset / TRUTH, maps.mask))
    assert mask.shape == truth.shape == scan.shape == (85, 85, 85)
    assert np.allclose(mask.affine, scan.affine, atol=1e-6)
    assert np.allclose(mask.affine, truth.affine, atol=1e-6)
    found, lesions = (np.asarray(image.dataobj) == 1 for image in (mask, truth))
    dice = 2 * int((found & lesions).sum()) / (int(found.sum()) + int(lesions.sum()))
    assert row["dice"] == pytest.approx(dice, abs=1e-9)
    assert dice > DICE_EXPECTED, dice
    assert row["truth_ml"] == pytest.approx(int(lesions.sum()) * 27 / 1000)  # voxels of 3 mm
