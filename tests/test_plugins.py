"""What other packages add is found by its entry point and used in real runs; what is broken is named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest

from mspipeline.arrays import NUMPY
from mspipeline.config import TrainingSettings, parse
from mspipeline.errors import ConfigError, DatasetError
from mspipeline.metrics.case import score_case
from mspipeline.metrics.case_masks import CaseMasks
from mspipeline.models.catalogue import MODELS, build, entry
from mspipeline.optimizers import OPTIMIZERS
from mspipeline.runs import RunPaths, read_rows
from mspipeline.tables.schema import EPOCHS
from tests.command_line import Ended, run
from tests.installed_package import EXAMPLES, importable, install

ENTRY_POINTS = """\
[mspipeline.models]
one_convolution = network:one_convolution
unlicensed = broken:build
not_there = network:no_such_function
no_function = network:__doc__
unet2d = network:one_convolution

[mspipeline.backends]
renamed = backend:RENAMED
class_alone = backend:RenamedBackend

[mspipeline.datasets]
two-folders = layout:TWO_FOLDERS

[mspipeline.recipes]
pictures2d = recipe:Pictures2d
named_otherwise = recipe:Pictures2d
schema_alone = recipe:PictureSchema
unfinished = broken_recipe:Unfinished

[mspipeline.formats]
plain = format:Plain
shadow = format:Shadow

[mspipeline.jobs]
count_voxels = job:JOB
other_settings = job:OTHER_SETTINGS

[mspipeline.losses]
brier = loss:Brier
unnamed = loss:Brier

[mspipeline.optimizers]
plain = optimizer:Plain

[mspipeline.schedules]
every_second = schedule:EverySecond

[mspipeline.transforms]
bias = transform:Bias
unfinished_transform = transform:Unfinished

[mspipeline.scores]
volume_ratio = score:VOLUME_RATIO
another_name = score:VOLUME_RATIO
seconds = score:SECONDS
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages with one of ours in it, as an installer leaves it."""
    folder = tmp_path_factory.mktemp("installed")
    second = "[mspipeline.models]\none_convolution = network:one_convolution\n"
    for name, points in (("zeta-plugins", second), ("example-plugins", ENTRY_POINTS)):
        install(folder, name, points, *(file.stem for file in EXAMPLES.glob("*.py")))
    return folder


@pytest.fixture
def here(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package is installed for this process."""
    monkeypatch.setattr(MODELS, "_loaded", {})
    with importable(installed):
        yield


def command(installed: Path, *words: object, cwd: Path) -> Ended:
    return run(*words, cwd=cwd, PYTHONPATH=os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")]))


@pytest.mark.usefixtures("here")
def test_a_network_is_found_by_its_name_with_its_arguments() -> None:
    graph = build("one_convolution", (8, 8, 1), {"kernel": 5})
    assert graph["conv"].op.kernel == (5, 5)  # type: ignore[attr-defined]
    assert entry("one_convolution").arguments == {"kernel": 3}
    assert entry("one_convolution").summary == "A convolution, an odd kernel of it, and a sigmoid."
    assert entry("one_convolution").example_shape == (256, 256, 1)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unlicensed", "broken:build cannot be used (RuntimeError: licence not found)"),
        ("not_there", "network:no_such_function cannot be used (AttributeError: "),
        ("no_function", "network:__doc__ cannot be used (expected a function that builds a Graph; received: str)"),
    ],
)
def test_one_that_cannot_be_used_is_named_when_it_is_asked_for(name: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(name, (8, 8, 1), {})
    assert str(error.value).startswith(f"model {name!r} of package example-plugins: {words}")
    assert str(error.value).endswith("; repair the package, or uninstall it")
    with pytest.raises(ConfigError, match="did you mean 'one_convolution'"):
        build("one_convolutions", (8, 8, 1), {})


@pytest.mark.usefixtures("here")
def test_the_rest_works_and_the_suites_own_names_stay_its_own() -> None:
    assert set(MODELS.working()) - set(MODELS.built_in) == {"one_convolution"}
    assert set(MODELS) - set(MODELS.built_in) == {"one_convolution", "unlicensed", "not_there", "no_function"}
    assert len(build("unet2d", (32, 32, 1), {}).nodes) > 20
    found = {problem.name: str(problem) for problem in MODELS.problems()}
    assert set(found) == {"unlicensed", "not_there", "no_function", "unet2d", "one_convolution"}
    assert found["unet2d"] == ("model 'unet2d' of package example-plugins: the suite has that name; choose another")


@pytest.mark.usefixtures("here")
def test_of_two_packages_with_one_name_the_first_by_name_has_it() -> None:
    (problem,) = [problem for problem in MODELS.problems() if problem.name == "one_convolution"]
    assert str(problem) == (
        "model 'one_convolution' of package zeta-plugins: package example-plugins has that name; choose another"
    )


def test_a_score_that_fails_on_a_case_ends_the_evaluation_in_its_name(tmp_path: Path) -> None:
    install(tmp_path, "failing-plugins", "[mspipeline.scores]\nfailing = score:FAILING\n", "score")
    with importable(tmp_path):
        masks = CaseMasks(*2 * [np.ones((2, 2, 2), bool)], spacing_mm=(1, 1, 1), affine_ras=np.eye(4))
        with pytest.raises(
            ConfigError, match=r"score 'failing' of another package failed \(ZeroDivisionError: division by"
        ):
            score_case(masks)


def test_doctor_names_what_is_broken(installed: Path, tmp_path: Path) -> None:
    done = command(installed, "doctor", cwd=tmp_path)
    words = " ".join(done.stdout.split())
    assert "licence not found" in words
    assert "backend class_alone" in words
    assert "recipe schema_alone" in words
    assert "job other_settings" in words
    assert "job count_voxels" not in words
    assert "the suite has that name" in words
    assert "format shadow" in words
    assert "transform unfinished_transform" in words
    assert "the table of cases has another column 'seconds'" in words


@pytest.mark.slow
@pytest.mark.usefixtures("backend_needed")
def test_a_network_a_backend_a_layout_and_a_score_of_another_package_in_one_real_run(
    installed: Path, small_dataset: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for folder in ("scans", "masks"):
        (data / folder).mkdir(parents=True)
    for number in range(1, 5):
        subject = f"sub-{number:02d}"
        scan = nib.nifti1.load(small_dataset / subject / "anat" / f"{subject}_FLAIR.nii.gz")
        mask = nib.nifti1.load(next(small_dataset.glob(f"derivatives/*/{subject}/anat/*lesion_mask.nii.gz")))
        nib.nifti1.save(scan, data / "scans" / f"{number}.nii.gz")
        nib.nifti1.save(mask, data / "masks" / f"{number}.nii.gz")
    prepared = command(
        installed, "prepare", data, "--set", "size=[32,32,16]", "--set", "brain=nonzero", "-o", "shards", cwd=tmp_path
    )
    assert prepared.code == 0, prepared.stderr
    trained = command(
        installed, "train", "one_convolution", "shards", "--backend", "renamed", "--epochs", "1", "--json", cwd=tmp_path
    )
    assert trained.code == 0, trained.stderr
    record = json.loads(trained.stdout)
    assert (record["model"], record["backend"], record["status"]) == ("one_convolution", "renamed", "complete")
    scored = command(installed, "evaluate", f"runs/{record['run_id']}", "shards", "--json", cwd=tmp_path)
    assert scored.code == 0, scored.stderr
    rows = json.loads(scored.stdout)
    assert {row["subset"] for row in rows} == {"validation", "test"}
    assert all(row["volume_ratio"] == pytest.approx(row["prediction_ml"] / row["truth_ml"]) for row in rows)
    assert "score 'another_name' of package example-plugins" in scored.stderr
    # The package is not installed any more: what it computed is still in the tables and on the page.
    assert run("collect", "runs", "-o", "tables", cwd=tmp_path).code == 0
    collected = pq.read_table(tmp_path / "tables/cases.parquet")
    assert sorted(collected["volume_ratio"].to_pylist()) == sorted(row["volume_ratio"] for row in rows)
    assert run("report", "tables", "-o", "page.html", cwd=tmp_path).code == 0
    page = (tmp_path / "page.html").read_text()
    assert "Held-out cases (test): volume ratio" in page
    assert "<dt>Volume ratio</dt>\n<dd>Predicted volume / true volume.</dd>" in page
    gone = run("evaluate", f"runs/{record['run_id']}", "shards", cwd=tmp_path)
    assert (gone.code, gone.error.startswith("unknown backend 'renamed'")) == (ConfigError.exit_code, True)


def plainly(path: Path) -> None:
    """A NIfTI file becomes one of the package's format, which takes its place."""
    image = nib.nifti1.load(path)
    voxels = np.asarray(image.dataobj)
    said = {"shape": voxels.shape, "dtype": voxels.dtype.str, "affine": image.affine.tolist()}
    plain = path.with_name(path.name.removesuffix(".nii.gz") + ".plain")
    plain.write_bytes(json.dumps(said).encode() + b"\n" + voxels.tobytes(order="F"))
    path.unlink()


@pytest.mark.slow
@pytest.mark.usefixtures("backend_needed")
def test_scans_in_a_format_of_another_package_make_the_shards_of_nifti_and_are_predicted_in_nifti(
    installed: Path, small_dataset: Path, small_shards: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(small_dataset, data)
    for path in [*data.rglob("*.nii.gz")]:
        plainly(path)
    assert not list(data.rglob("*.nii*"))
    prepared = command(installed, "prepare", data, "--set", "size=[32,32,16]", "-o", "shards", cwd=tmp_path)
    assert prepared.code == 0, prepared.stderr
    for number in range(1, 5):
        with (
            h5py.File(tmp_path / f"shards/cases/sub-{number:02d}.h5", locking=False) as ours,
            h5py.File(small_shards / f"cases/sub-{number:02d}.h5", locking=False) as of_nifti,
        ):
            assert set(ours) == set(of_nifti)
            for name in of_nifti:
                assert np.array_equal(ours[name][...], of_nifti[name][...]), name
    trained = command(installed, "train", "one_convolution", "shards", "--epochs", "1", "--json", cwd=tmp_path)
    assert trained.code == 0, trained.stderr
    run_id = json.loads(trained.stdout)["run_id"]
    predicted = command(installed, "predict", f"runs/{run_id}", data, "-o", "maps", cwd=tmp_path)
    assert predicted.code == 0, predicted.stderr
    (found,) = (tmp_path / "maps").glob("*/sub-01/anat/*_probseg.nii.gz")
    scan = nib.nifti1.load(small_dataset / "sub-01/anat/sub-01_FLAIR.nii.gz")
    image = nib.nifti1.load(found)
    assert (image.shape, np.allclose(image.affine, scan.affine)) == (scan.shape, True)
    gone = run("prepare", data, "--set", "size=[32,32,16]", "-o", "others", cwd=tmp_path)
    assert gone.code == DatasetError.exit_code
    assert "no FLAIR (has no scan)" in gone.error


def test_a_recipe_of_another_package_prepares_and_a_broken_one_is_named(installed: Path, tmp_path: Path) -> None:
    for number in range(3):
        folder = tmp_path / "pictures" / f"case-{number}"
        folder.mkdir(parents=True)
        np.save(folder / "image.npy", np.full((16, 16), 40.0 * number))
        np.save(folder / "mask.npy", np.eye(16))
    (tmp_path / "own.toml").write_text('kind = "pictures2d"\ndivide_by = 80\n')
    words = ("prepare", "pictures", "--recipe", "own.toml", "-o", "shards", "--validation", "0", "--test", "0")
    prepared = command(installed, *words, cwd=tmp_path)
    assert prepared.code == 0, prepared.stderr
    assert "3 cases (3 train, 0 validation, 0 test), 3 pictures of 16x16x1 (gray)" in " ".join(prepared.stdout.split())
    (tmp_path / "own.toml").write_text('kind = "unfinished"\n')
    broken = command(installed, *words, cwd=tmp_path)
    assert broken.code == ConfigError.exit_code
    assert "recipe 'unfinished' of package example-plugins: broken_recipe:Unfinished cannot be used (it lacks" in (
        broken.error
    )


@pytest.mark.usefixtures("here")
def test_an_optimizer_of_a_package_has_settings_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OPTIMIZERS, "_loaded", {})
    document = {"optimizer": "plain", "learning_rate": 0.5, "optimizer_settings": {"slowness": 4}}
    settings = parse(document, TrainingSettings, where="file")
    (weight, slots) = settings.chosen_optimizer.update(NUMPY, np.ones(1), np.ones(1), (), 1, 0.5)
    assert (weight.item(), slots) == (1 - 0.5 / 4, ())
    assert settings.identity()["optimizer_settings"] == {"slowness": 4}
    assert parse(settings.model_dump(), TrainingSettings, where="file") == settings
    assert "optimizer_settings" not in TrainingSettings().model_dump() | TrainingSettings().identity()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("optimizer", "own", "words"),
    [
        ("plain", {"slownes": 2}, "unknown setting 'slownes' of 'plain'; did you mean 'slowness'?"),
        (
            "plain",
            {"slowness": "fast"},
            "settings.slowness: input should be a valid number; received: 'fast'",
        ),
        ("plain", {"slowness": 0.5}, "slowness 0.5: expected at least 1"),
        (
            "sgd",
            {"momentum": 0.5},
            "optimizer_settings.momentum: a setting of the suite's own optimizers; set",
        ),
        ("sgd", {"slowness": 2}, "unknown setting 'slowness' of 'sgd'; it has no settings of its own"),
    ],
)
def test_what_is_no_setting_of_the_optimizer_is_answered(
    optimizer: str, own: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OPTIMIZERS, "_loaded", {})
    with pytest.raises(ConfigError) as error:
        parse({"optimizer": optimizer, "optimizer_settings": own}, TrainingSettings, where="file")
    assert words in str(error.value)


@pytest.mark.slow
@pytest.mark.usefixtures("backend_needed")
def test_a_loss_an_optimizer_and_a_schedule_of_another_package_train_as_their_formulas_say(
    installed: Path, small_shards: Path, tmp_path: Path
) -> None:
    (tmp_path / "training.toml").write_text(
        'loss = "brier"\noptimizer = "plain"\nschedule = "every_second"\nepochs = 2\nwarmup_steps = 0\n'
        "[optimizer_settings]\nslowness = 1.5\n"
    )
    words = ("train", "one_convolution", small_shards, "--config", "training.toml", "--json")
    trained = command(installed, *words, cwd=tmp_path)
    assert trained.code == 0, trained.stderr
    folder = tmp_path / "runs" / json.loads(trained.stdout)["run_id"]
    rows = read_rows(RunPaths(folder).epochs, EPOCHS).to_pylist()
    assert [row["learning_rate"] for row in rows if row["subset"] == "train"] == pytest.approx([0.1, 0.05])
    assert 0 < rows[-2]["loss"] < rows[0]["loss"] < 1  # of squared differences of probabilities
    absent = run(*words, "-o", "others", cwd=tmp_path)
    assert absent.code == ConfigError.exit_code
    assert "unknown loss 'brier'" in absent.error
    wrong = command(installed, *words, "--loss", "unnamed", cwd=tmp_path)
    assert "its name is 'brier', expected the name of its entry point, 'unnamed'" in wrong.error


@pytest.mark.slow
@pytest.mark.usefixtures("backend_needed")
def test_a_transform_of_another_package_is_trained_with(installed: Path, small_shards: Path, tmp_path: Path) -> None:
    words = ("train", "one_convolution", small_shards, "--epochs", "1", "--json")
    losses = []
    for slope in ("0", "4"):
        transforms = f'training.recipe.transforms=[{{name="flip", axes=[1]}}, {{name="bias", slope={slope}}}]'
        trained = command(installed, *words, "--set", "kernel=1", "--set", transforms, cwd=tmp_path)
        assert trained.code == 0, trained.stderr
        folder = tmp_path / "runs" / json.loads(trained.stdout)["run_id"]
        losses.append(read_rows(RunPaths(folder).epochs, EPOCHS).to_pylist()[0]["loss"])
    assert losses[0] != losses[1]
    absent = run(*words, "--set", "training.recipe.transforms=[{name='bais'}]", cwd=tmp_path)
    assert absent.code == ConfigError.exit_code
    assert "training.recipe.transforms[0]: unknown transform 'bais'; " in absent.error
    near = command(installed, *words, "--set", "training.recipe.transforms=[{name='bais'}]", cwd=tmp_path)
    assert "unknown transform 'bais'; did you mean 'bias'" in near.error
    assert len(list((tmp_path / "runs").iterdir())) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("backend_needed")
def test_a_network_of_a_file_is_trained_and_predicted_without_the_file(small_shards: Path, tmp_path: Path) -> None:
    (tmp_path / "my_net.py").write_text((EXAMPLES / "network.py").read_text())
    words = ("train", "my_net.py:one_convolution", small_shards, "--epochs", "1", "--json", "--set")
    first = run(*words, "kernel=1", cwd=tmp_path)
    assert first.code == 0, first.stderr
    named = json.loads(first.stdout)["run_id"]
    assert named.startswith("my_net_one_convolution-tensorflow-s0-")
    (tmp_path / "my_net.py").write_text((EXAMPLES / "network.py").read_text().replace("Sigmoid(), x", "Sigmoid(), x  "))
    assert json.loads(run(*words, "kernel=1", cwd=tmp_path).stdout)["run_id"] != named  # an edited file is another run
    (tmp_path / "my_net.py").unlink()
    scored = run("evaluate", f"runs/{named}", small_shards, cwd=tmp_path)
    assert scored.code == 0, scored.stderr


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("my_net.py:build", None, "my_net.py: no such file, expected Python with a function that builds a network"),
        ("my_net.py:", "", "names no function; expected FILE.py:FUNCTION"),
        ("my_net.py:bild", "def build(height, width, channels): ...", "has no function 'bild'; did you mean 'build'?"),
        ("my_net.py:build", "def build(:", "my_net.py, line 1: cannot be loaded (SyntaxError: "),
        ("my_net.py:build", "1 / 0", "my_net.py: cannot be loaded (ZeroDivisionError: division by zero)"),
        (
            "my_net.py:build",
            "def build(image): ...",
            "channels last, as in build(height, width, channels, *, first=16)",
        ),
        ("my_net.py:build", "def build(height, width, channels): return 3", "its function gave int, expected a Graph"),
    ],
)
def test_a_file_that_gives_no_network_is_one_line(
    small_shards: Path, tmp_path: Path, name: str, content: str | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "my_net.py").write_text(content)
    ended = run("train", name, small_shards, cwd=tmp_path)
    assert ended.code == ConfigError.exit_code
    assert words in ended.error
    assert not (tmp_path / "runs").exists()
