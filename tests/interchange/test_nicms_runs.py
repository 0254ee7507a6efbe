"""Published weights as a run that `predict` reads."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mspipeline.backends.base import Execution
from mspipeline.config import PredictJob
from mspipeline.datasets.phantom import make_phantom
from mspipeline.errors import ConfigError, DataError, Preempted, RunFolderError, ShapeError, ShardError, SuiteError
from mspipeline.files import sha256_file
from mspipeline.interchange.runs.nicms import import_nicms
from mspipeline.jobs.work.predict import Prediction, predict
from mspipeline.patches.candidates import candidates
from mspipeline.recipes.patches3d.cascade import predict_cascade
from mspipeline.recipes.patches3d.predict import TrainedCascade
from mspipeline.recipes.patches3d.prepare import apply_files
from mspipeline.recipes.prediction import PredictionSettings
from mspipeline.recipes.trained import load_trained
from mspipeline.runs import RunPaths, read_record, write_record
from mspipeline.shards.manifest import load_manifest
from mspipeline.telemetry.events import EventWriter
from mspipeline.telemetry.schema import Identity
from mspipeline.volume import load_mask
from tests.command_line import run as run_command
from tests.nicms_file import Layers, forward, random_layers, write_nicms_file

SHAPE = (20, 18, 16)


@pytest.fixture(scope="module")
def stages() -> list[Layers]:
    """Two networks that disagree."""
    return [random_layers(seed=3), random_layers(seed=4)]


@pytest.fixture
def files(stages: list[Layers], tmp_path: Path) -> list[Path]:
    return [
        write_nicms_file(tmp_path / f"model_{number}.hdf5", layers, suffix="" if number == 1 else "_1")
        for number, layers in enumerate(stages, start=1)
    ]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "scans"
    make_phantom(folder, cases=1, seed=0, shape=SHAPE)
    return folder


def imported(files: list[Path], folder: Path) -> Path:
    import_nicms(files, folder, modalities=("T1w", "FLAIR"), backend="tensorflow", origin={"commit": None})
    return folder


def maps(run: Path, scans: Path, output: Path, *, stop: SuiteError | None = None) -> list[Prediction]:
    job = PredictJob(run_folder=run, dataset=scans, output=output, threads=2, batch_size=64)
    with EventWriter(None, Identity("")) as events:
        return predict(job, events=events, stop=lambda: stop)


def normalised(path: Path, brain: np.ndarray) -> np.ndarray:
    """As nicMSlesions' Keras version: less the brain's mean, over the deviation of the whole shifted volume."""
    image = np.where(brain, np.asarray(nib.as_closest_canonical(nib.nifti1.load(path)).dataobj, np.float64), 0)
    shifted = image - image[brain].mean()
    return shifted / shifted.std()


@pytest.mark.usefixtures("backend_needed")
def test_the_map_is_the_second_networks_where_the_first_is_sure(
    stages: list[Layers], scans: Path, tmp_path: Path
) -> None:
    first, second = copy.deepcopy(stages)
    brain_file = next(scans.glob("derivatives/*/sub-01/anat/*brain_mask.nii.gz"))
    brain = np.asarray(nib.as_closest_canonical(nib.nifti1.load(brain_file)).dataobj) == 1
    channels = [normalised(scans / f"sub-01/anat/sub-01_{name}.nii.gz", brain) for name in ("T1w", "FLAIR")]
    padded = np.pad(np.stack(channels), [(0, 0), (5, 5), (5, 5), (5, 5)])
    bright = np.argwhere((channels[1] > 0.5) & brain)
    looked_at = bright[:: len(bright) // 12]
    patches = [padded[:, x : x + 11, y : y + 11, z : z + 11] for x, y, z in looked_at]
    # The first network's bias is moved until it passes half of them on: the logit of 0.8 is log 4.
    odds = [float(np.log(p[1] / p[0])) for p in (forward(first, patch) for patch in patches)]
    first["out"]["bias"][1] += np.log(4) - (sorted(odds)[5] + sorted(odds)[6]) / 2
    files = [write_nicms_file(tmp_path / f"{number}.hdf5", layers) for number, layers in enumerate((first, second))]

    run = imported(files, tmp_path / "run")
    (made,) = maps(run, scans, tmp_path / "out")
    root = tmp_path / "out" / f"mspipeline-{read_record(RunPaths(run)).run_id}"
    assert made.probability == root / "sub-01/anat/sub-01_label-lesion_probseg.nii.gz"
    found = np.asarray(nib.as_closest_canonical(nib.nifti1.load(made.probability)).dataobj)
    assert not found[~((channels[1] > 0.49) & brain)].any()
    passed = [bool(forward(first, patch)[1] > 0.8) for patch in patches]
    assert 5 <= sum(passed) <= 7
    for (x, y, z), patch, goes_on in zip(looked_at, patches, passed, strict=True):
        assert found[x, y, z] == pytest.approx(forward(second, patch)[1] if goes_on else 0, abs=1e-5)


@pytest.mark.usefixtures("backend_needed")
def test_maps_lie_on_the_grid_of_the_scan_and_masks_obey_the_records_numbers(
    files: list[Path], scans: Path, tmp_path: Path
) -> None:
    run = imported(files, tmp_path / "run")
    paths = RunPaths(run)
    record = read_record(paths)
    assert record.cascade is not None
    assert record.cascade.model_dump() == {
        "stages": 2,
        "pass_above": 0.8,
        "larger_than_vox": 10,
        "min_total_ml": 0.5,
    }
    cascade = record.cascade.model_copy(update={"larger_than_vox": 0, "min_total_ml": 0.0})
    (before,) = maps(run, scans, tmp_path / "before")
    values = np.asarray(nib.nifti1.load(before.probability).dataobj)
    threshold = float(np.median(values[values > 0]))
    write_record(paths, record.model_copy(update={"cascade": cascade, "threshold": threshold}))
    (made,) = maps(run, scans, tmp_path / "out")
    scan, mask = nib.nifti1.load(scans / "sub-01/anat/sub-01_FLAIR.nii.gz"), nib.nifti1.load(made.mask)
    assert mask.shape == scan.shape
    assert np.allclose(mask.affine, scan.affine, atol=1e-5)
    expected = values >= np.float32(threshold)
    assert 0 < expected.sum() < expected.size
    assert np.array_equal(np.asarray(mask.dataobj), expected.astype(np.uint8))
    said = (made.mask.parents[2] / "dataset_description.json").read_text(encoding="utf-8")
    assert "in the last of 2 stages (each passes on what is above 0.8)" in said


@pytest.mark.usefixtures("backend_needed")
def test_one_file_is_one_stage(stages: list[Layers], files: list[Path], tmp_path: Path) -> None:
    run = imported(files[:1], tmp_path / "run")
    trained = load_trained(run, PredictionSettings("best", Execution(threads=2)))
    assert isinstance(trained, TrainedCascade)
    assert len(trained.stages) == 1
    image = np.random.default_rng(0).standard_normal((11, 11, 11, 2)).astype(np.float32)
    found = predict_cascade(trained.stages, image, np.array([[5, 5, 5]]), pass_above=0.8, batch_size=1)
    assert found[5, 5, 5] == pytest.approx(forward(stages[0], image.transpose(3, 0, 1, 2))[1], abs=1e-5)


@pytest.mark.usefixtures("backend_needed")
def test_a_stop_in_the_middle_of_a_case_leaves_no_map_of_it(files: list[Path], scans: Path, tmp_path: Path) -> None:
    with pytest.raises(Preempted):
        maps(imported(files, tmp_path / "run"), scans, tmp_path / "out", stop=Preempted("enough"))
    assert not list((tmp_path / "out").rglob("*.nii.gz"))


def test_the_record_says_where_the_weights_came_from(files: list[Path], tmp_path: Path) -> None:
    record = read_record(RunPaths(imported(files, tmp_path / "run")))
    assert record.provenance["imported_from"] == {str(file): sha256_file(file) for file in files}
    assert (record.trainable_parameters, record.non_trainable_parameters) == (470_082, 384)
    assert record.recipe["modalities"] == ["T1w", "FLAIR"]
    assert (record.recipe["spread"], record.recipe["zero_outside_brain"]) == ("volume", False)


def test_nothing_is_written_where_a_file_does_not_fit_or_a_run_is_there(files: list[Path], tmp_path: Path) -> None:
    files[1].write_bytes(b"text")
    with pytest.raises(DataError, match=r"model_2\.hdf5: not a readable HDF5"):
        imported(files, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    imported(files[:1], tmp_path / "run")
    with pytest.raises(RunFolderError, match="holds a run already"):
        imported(files[:1], tmp_path / "run")


def test_modalities_and_backends_that_do_not_fit_are_refused(files: list[Path], tmp_path: Path) -> None:
    three = ("T1w", "T2w", "FLAIR")
    with pytest.raises(ShapeError, match="trained on 2 modalities"):
        import_nicms(files, tmp_path / "run", modalities=three, backend="tensorflow", origin={})
    with pytest.raises(ConfigError, match="candidates_of must be one of the modalities"):
        import_nicms(files, tmp_path / "run", modalities=("T1w", "T2w"), backend="tensorflow", origin={})
    with pytest.raises(ConfigError, match="unknown backend 'tensorflo'"):
        import_nicms(files, tmp_path / "run", modalities=("T1w", "FLAIR"), backend="tensorflo", origin={})


def test_settings_replace_the_published_numbers_and_name_another_run(files: list[Path], tmp_path: Path) -> None:
    plain = read_record(RunPaths(imported(files, tmp_path / "plain")))
    settings = {"spread": "brain", "min_total_ml": 0, "threshold": 0.3}
    changed = import_nicms(
        files,
        tmp_path / "changed",
        modalities=("T1w", "FLAIR"),
        backend="tensorflow",
        origin={},
        settings=settings,
    )
    assert changed.cascade is not None
    assert (changed.recipe["spread"], changed.cascade.min_total_ml, changed.threshold) == ("brain", 0, 0.3)
    assert changed.recipe["zero_outside_brain"] is False
    assert plain.run_id != changed.run_id
    for wrong, said in (
        ({"spred": "brain"}, "unknown setting 'spred'; did you mean 'spread'"),
        ({"spread": "all"}, "spread: input should be 'brain' or 'volume'; received: 'all'"),
        ({"threshold": 1.5}, "threshold: input should be less than 1"),
        ({"pass_above": "high"}, "pass_above: input should be a valid number"),
    ):
        with pytest.raises(ConfigError, match=said):
            import_nicms(
                files,
                tmp_path / "no",
                modalities=("T1w", "FLAIR"),
                backend="tensorflow",
                origin={},
                settings=wrong,
            )


def test_the_command_makes_the_run_and_says_what_does_not_fit(files: list[Path], tmp_path: Path) -> None:
    done = run_command("import-weights", "nicms", *files, "-o", tmp_path / "run", "--set", "spread=brain")
    assert done.code == 0, done.stderr
    record = read_record(RunPaths(tmp_path / "run"))
    assert done.stdout.split() == f"{record.run_id}: 2 stages on T1w, FLAIR is in {tmp_path / 'run'}".split()
    assert record.recipe["spread"] == "brain"
    assert record.provenance["python"]
    other = run_command("import-weights", "unet2d", files[0], "-o", tmp_path / "other")
    assert (other.code, other.error) == (
        2,
        "import-weights knows the published weights of nicms only; received: unet2d",
    )
    three = run_command(
        "import-weights", "nicms", files[0], "-o", tmp_path / "other", *("--modality", "T1w"), *("--modality", "FLAIR"),
        *("--modality", "T2w"),
    )  # fmt: skip
    assert three.code == 65
    assert "model_1.hdf5: conv1_1/kernel has shape (3, 3, 3, 2, 32), expected (3, 3, 3, 3, 32)" in three.error


@pytest.mark.usefixtures("backend_needed")
def test_a_cascade_is_not_evaluated_on_slices(files: list[Path], small_shards: Path, tmp_path: Path) -> None:
    trained = load_trained(imported(files, tmp_path / "run"), PredictionSettings("best", Execution(threads=2)))
    with pytest.raises(ShardError, match="unknown key 'slices'"):
        trained.shard(small_shards, load_manifest(small_shards).cases[0])


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.usefixtures("backend_needed")
def test_the_published_weights_find_real_lesions(real_data: Path, tmp_path: Path) -> None:
    """A box around the largest lesions of one patient; the whole case takes minutes."""
    folder = os.environ.get("MSPIPELINE_NICMS_WEIGHTS", "")
    if not folder:
        pytest.skip("MSPIPELINE_NICMS_WEIGHTS names no folder with model_1.hdf5 and model_2.hdf5 of nicMSlesions")
    run = imported([Path(folder) / f"model_{number}.hdf5" for number in (1, 2)], tmp_path / "run")
    trained = load_trained(run, PredictionSettings("best", Execution(threads=2)))
    assert isinstance(trained, TrainedCascade)
    anatomy = real_data / "ms" / "sub-openms07" / "anat"
    case = apply_files(
        trained.recipe, {name: anatomy / f"sub-openms07_{name}.nii.gz" for name in trained.recipe.modalities}
    )
    truth = load_mask(next((real_data / "ms/derivatives").glob("*/sub-openms07/anat/*_label-lesion_mask.nii.gz"))).data
    counts = [truth[x : x + 24].sum() for x in range(truth.shape[0] - 24)]
    box = slice(int(np.argmax(counts)), int(np.argmax(counts)) + 24)
    z = int(truth[box].sum(axis=(0, 1)).argmax())
    chosen = np.zeros(truth.shape, bool)
    chosen[box, :, z - 8 : z + 8] = True
    places = candidates(case.image[..., 1], trained.recipe.candidates_above, within=case.brain & chosen)
    found = predict_cascade(trained.stages, case.image, places, pass_above=0.8, batch_size=128, threads=2)
    mask = found[chosen] >= 0.5
    dice = 2 * (mask & truth[chosen]).sum() / (mask.sum() + truth[chosen].sum())
    assert dice > 0.5
