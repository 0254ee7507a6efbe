"""Bad input, met as a user meets it: one line, the right exit code, and nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
import pytest

from mspipeline.config import TrainJob
from mspipeline.runs import RunPaths, read_record
from mspipeline.shards.manifest import load_manifest, verify_shards
from mspipeline.telemetry.schema import EVENTS
from mspipeline.telemetry.shard import read_stream
from tests.command_line import Ended, files_below, run, small_disk, stopped, wait_for
from tests.conftest import SMALL_UNET

SIZE = ("--set", "size=[32,32,16]")
TRAIN = ("train", "unet2d")
NARROW = ("--set", "base_width=2")
USAGE, DATA, STORAGE, CONFIG, INTERRUPTED = 2, 65, 74, 78, 130


@pytest.fixture
def scans(small_dataset: Path, tmp_path: Path) -> Path:
    """Phantom heads of the test's own, in a folder whose name has spaces, brackets and other letters than English."""
    return shutil.copytree(small_dataset, tmp_path / "Schädel à Δ [old]")


@pytest.fixture
def finished(trained_run: TrainJob, tmp_path: Path) -> Path:
    """A finished run of the test's own."""
    return shutil.copytree(trained_run.run_folder, tmp_path / "finished")


def flair(dataset: Path) -> Path:
    return dataset / "sub-02/anat/sub-02_FLAIR.nii.gz"


def mask(dataset: Path) -> Path:
    return dataset / "derivatives/lesions/sub-02/anat/sub-02_label-lesion_mask.nii.gz"


def change(path: Path, how: Callable[[Any], Any], affine: Any = None) -> None:
    """Write an image again with other voxels, or on another affine."""
    image = nib.nifti1.load(path)
    data = how(np.asarray(image.dataobj).astype(np.float32))
    path.unlink()
    nib.Nifti1Image(data, image.affine if affine is None else affine).to_filename(path)


def one_nan(data: Any) -> Any:
    data[9, 9, 9] = np.nan
    return data


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def prepare(dataset: Path, output: Path, *words: object) -> Ended:
    return run("prepare", dataset, *SIZE, "-o", output, *words)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: flair(d).unlink(), "1 of 4 cases incomplete (sub-02: no FLAIR (has T1w, T2w))"),
        (lambda d: mask(d).unlink(), "1 of 4 cases incomplete (sub-02: no lesion mask"),
        (lambda d: change(mask(d), lambda a: a, np.diag([-5.0, 6.0, 9.0, 1.0])), "are on different grids"),
        (lambda d: change(mask(d), lambda a: a[:, :, 1:]), "are on different grids"),
        (lambda d: cut(flair(d)), "sub-02_FLAIR.nii.gz: truncated: its compressed data end too early"),
        (lambda d: cut(mask(d)), "sub-02_label-lesion_mask.nii.gz: truncated: its compressed data"),
        (lambda d: flair(d).write_bytes(b""), "sub-02_FLAIR.nii.gz is empty (0 bytes): copy it again"),
        (lambda d: flair(d).write_bytes(b"\0"), "sub-02_FLAIR.nii.gz: truncated or not an image"),
        (lambda d: change(mask(d), lambda a: a * 2), "not a binary mask: holds 2 values (0, 2)"),
        (lambda d: change(flair(d), one_nan), "sub-02_FLAIR.nii.gz: 1 voxels are NaN or infinite"),
        (lambda d: change(mask(d), one_nan), "sub-02_label-lesion_mask.nii.gz: 1 voxels are NaN or infinite"),
        (lambda d: change(flair(d), lambda a: a * 0 + 7), "sub-02_FLAIR.nii.gz: constant"),
        (lambda d: change(flair(d), lambda a: np.stack([a, a], 3)), "has 4 axes (32, 32, 16, 2), expected a 3-D"),
    ],
)
def test_bad_scans_are_named_and_leave_whole_shards_or_none(
    scans: Path, tmp_path: Path, spoil: Callable[[Path], object], words: str
) -> None:
    spoil(scans)
    ended = prepare(scans, tmp_path / "shards")
    assert ended.code == DATA
    assert words in ended.error
    assert str(scans) in ended.error
    assert files_below(tmp_path / "shards") <= {"cases/sub-01.h5"}  # the case before the bad one


def test_a_folder_that_is_no_dataset_is_told_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    for name, words in (
        (".", "not a BIDS dataset: no folder sub-*"),
        ("nowhere", "no such folder, expected a BIDS dataset"),
        ("holiday.jpg", "a file, expected a BIDS dataset"),
    ):
        ended = prepare(tmp_path / name, tmp_path / "shards")
        assert ended.code == DATA
        assert words in ended.error
    assert files_below(tmp_path) == {"holiday.jpg"}


def test_an_incomplete_case_can_be_skipped_and_is_recorded(scans: Path, tmp_path: Path) -> None:
    flair(scans).unlink()
    ended = prepare(scans, tmp_path / "shards", "--skip-incomplete")
    assert (ended.code, ended.stderr) == (0, "")
    assert "left out sub-02: no FLAIR (has T1w, T2w)" in ended.stdout
    manifest = load_manifest(tmp_path / "shards")
    assert [(skipped.case, skipped.reason) for skipped in manifest.skipped] == [("sub-02", "no FLAIR (has T1w, T2w)")]
    assert [entry.case for entry in manifest.cases] == ["sub-01", "sub-03", "sub-04"]


@pytest.mark.parametrize(
    ("text", "command", "words"),
    [
        (
            'modalitys = ["FLAIR"]',
            ("prepare", "{scans}", "--recipe", "{file}"),
            "'modalitys'; did you mean 'modalities'",
        ),
        (
            'train = ["sub-01"]\nvalidaton = []',
            ("prepare", "{scans}", "--split", "{file}"),
            "did you mean 'validation'",
        ),
        ("epochss = 3", (*TRAIN, "{shards}", "--config", "{file}"), "'epochss'; did you mean 'epochs'"),
        ('name = "x"\n[matrx]\nmodel = ["unet2d"]', ("sweep", "{file}"), "'matrx'; did you mean 'matrix'"),
        ('name = "x"\n[matrix]\nmodel = ["unet2d"]\nsed = [0]', ("sweep", "{file}"), "did you mean 'seed'"),
        (
            'name = "here"\nexecutor = "local"\nmax_paralel = 1',
            ("sweep", "{sweep}", "--shards", "{shards}", "--site", "{file}"),
            "'max_paralel'; did you mean 'max_parallel'",
        ),
        ("epochs = ", (*TRAIN, "{shards}", "--config", "{file}"), "not readable as a configuration file"),
    ],
)
def test_a_misspelt_key_is_answered_with_the_nearest_one(
    small_dataset: Path, small_shards: Path, tmp_path: Path, text: str, command: tuple[str, ...], words: str
) -> None:
    (tmp_path / "file.toml").write_text(text)
    (tmp_path / "sweep.toml").write_text('name = "good"\n[matrix]\nmodel = ["unet2d"]\n')
    names = {"scans": small_dataset, "shards": small_shards, "file": "file.toml", "sweep": "sweep.toml"}
    ended = run(*(word.format(**names) for word in command), cwd=tmp_path)
    assert ended.code == CONFIG
    assert ended.error.startswith("file.toml: ")
    assert words in ended.error
    assert files_below(tmp_path) == {"file.toml", "sweep.toml"}


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ((*TRAIN[:1], "unet2", "{shards}"), CONFIG, "unknown model 'unet2'; did you mean 'unet2d'"),
        ((*TRAIN, "{shards}", "--backend", "tensorflo"), CONFIG, "unknown backend 'tensorflo'"),
        ((*TRAIN, "{shards}", "--set", "base_widht=2"), CONFIG, "did you mean 'base_width'"),
        ((*TRAIN, "{shards}", "--set", "base_width"), CONFIG, "--set base_width: expected KEY=VALUE"),
        ((*TRAIN, "{shards}", "--epochs", "0"), CONFIG, "training.epochs: input should be greater than 0"),
        ((*TRAIN, "{shards}", "--optimizer", "adem"), CONFIG, "unknown optimizer 'adem'; did you mean 'adam'"),
        ((*TRAIN, "{shards}", "--set", "training.epoch=3"), CONFIG, "'training.epoch'; did you mean 'epochs'"),
        (
            (*TRAIN, "{shards}", "--optimizer", "sgd", "--set", "training.rho=0.9"),
            CONFIG,
            "training: rho: not of optimizer 'sgd', which has learning_rate, momentum",
        ),
        ((*TRAIN, "nowhere"), DATA, "name a folder that `mspipeline prepare` finished"),
        (("prepare", "{scans}", "--recipe", "slice2d"), CONFIG, "no such recipe, neither a file nor built in"),
        (("prepare", "{scans}", "--set", "szie=[8,8,8]"), CONFIG, "did you mean 'size'"),
        (("sweep", "sweep.toml", "--shards", "{shards}", "--site", "lokal"), CONFIG, "unknown site 'lokal'"),
        (("sweep", "sweep.toml", "--shards", "nowhere"), DATA, "nowhere/manifest.json: no such file"),
        (("sweep", "backend.toml", "--shards", "{shards}"), CONFIG, "unknown backend 'tensorflo'"),
        (("sweep", "nowhere.toml"), CONFIG, "no such configuration file"),
        (("evaluate", "nowhere", "{shards}"), DATA, "name a folder that `mspipeline train` made"),
        (("evaluate", "{shards}", "{shards}"), DATA, "name a folder that `mspipeline train` made"),
        (("evaluate", "nowhere", "{shards}", "--subset", "tset"), CONFIG, "input should be 'train', 'validation'"),
        (("evaluate", "nowhere", "{shards}", "--device", "tpu"), CONFIG, "device: input should be 'auto', 'cpu' or"),
        (("predict", "nowhere", "{shards}", "--device", "tpu"), CONFIG, "device: input should be 'auto', 'cpu' or"),
        (("predict", "nowhere", "{scans}"), DATA, "name a folder that `mspipeline train` made"),
        (("predict", "nowhere", "{scans}", "--checkpoint", "bst"), CONFIG, "input should be 'best' or 'last'"),
        (("status", "nowhere"), DATA, "name a folder that `mspipeline sweep` made"),
        (("resume", "nowhere"), DATA, "name a folder that `mspipeline sweep` made"),
        (("cancel", "nowhere"), DATA, "name a folder that `mspipeline sweep` made"),
        (("collect", "nowhere"), DATA, "nowhere: no run folder in it"),
        (("report", "nowhere"), DATA, "run `mspipeline collect RUNS -o nowhere`"),
        (("phantom", "."), USAGE, "is not an empty folder"),
    ],
)
def test_what_does_not_exist_is_refused_before_anything_is_written(
    small_dataset: Path, small_shards: Path, tmp_path: Path, command: tuple[str, ...], code: int, words: str
) -> None:
    (tmp_path / "sweep.toml").write_text('name = "good"\n[matrix]\nmodel = ["unet2d"]\n')
    (tmp_path / "backend.toml").write_text('name = "x"\n[matrix]\nmodel = ["unet2d"]\nbackend = ["tensorflo"]\n')
    before = files_below(small_shards)
    ended = run(*(word.format(scans=small_dataset, shards=small_shards) for word in command), cwd=tmp_path)
    assert ended.code == code
    assert words in ended.error
    assert files_below(tmp_path) == {"sweep.toml", "backend.toml"}
    assert not (tmp_path / "nowhere").exists()
    assert files_below(small_shards) == before


def test_shards_that_a_run_was_not_trained_on_are_refused(finished: Path, scans: Path, tmp_path: Path) -> None:
    change(flair(scans), lambda a: a + 1)
    assert prepare(scans, tmp_path / "others").code == 0
    scored = {
        path: (finished / path).read_bytes() for path in files_below(finished) if not path.startswith("telemetry")
    }
    ended = run("evaluate", finished, tmp_path / "others")
    assert ended.code == DATA
    assert "was trained on another dataset" in ended.error
    assert {path: (finished / path).read_bytes() for path in scored} == scored


def test_a_campaign_whose_shards_are_others_by_now_is_not_resumed(scans: Path, tmp_path: Path) -> None:
    from mspipeline.campaigns.campaign import Campaign
    from mspipeline.campaigns.site_file import load_site
    from mspipeline.campaigns.sweep import Matrix, Sweep

    assert prepare(scans, tmp_path / "shards").code == 0
    sweep = Sweep(name="tiny", matrix=Matrix(model=("unet2d",)))
    Campaign.create(tmp_path / "campaign", sweep, tmp_path / "shards", load_site("local"))
    shutil.rmtree(tmp_path / "shards")
    assert prepare(scans, tmp_path / "shards", "--split-seed", "5").code == 0
    ended = run("resume", tmp_path / "campaign")
    assert ended.code == CONFIG
    assert "not the shards this campaign began with (split_hash differ)" in ended.error
    assert files_below(tmp_path / "campaign") == {"campaign.json"}


@pytest.mark.usefixtures("backend_needed")
@pytest.mark.parametrize("spoil", [Path.unlink, cut])
def test_a_shard_that_is_lost_in_mid_training_ends_it_by_name(
    small_shards: Path, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    shards = shutil.copytree(small_shards, tmp_path / "shards")
    lost = shards / load_manifest(shards).subset("train")[0].file

    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(run, *TRAIN, shards, *NARROW, "--epochs", 500, "-o", tmp_path / "runs")
        wait_for(lambda: training.done() or bool(list((tmp_path / "runs").glob("*/checkpoints/last.h5"))))
        spoil(lost)
        ended = training.result()
    assert ended.code == DATA
    line = ended.stderr.splitlines()[-1]
    assert line.startswith(f"error: {lost}: shard of case {lost.stem} is missing or damaged")
    assert ended.stderr.count("error:") == 1
    (run_folder,) = (tmp_path / "runs").iterdir()
    assert read_record(RunPaths(run_folder)).status == "failed"
    assert not [name for name in files_below(tmp_path) if name.endswith(".partial")]


def test_a_full_disk_stops_prepare_with_whole_shards_left(small_dataset: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 120) as disk:
        ended = prepare(small_dataset, disk / "shards")
        assert ended.code == STORAGE
        assert "cannot be written (No space left on device)" in ended.error
        left = files_below(disk)
        assert left
        assert left < {f"shards/cases/sub-0{number}.h5" for number in (1, 2, 3, 4)}


@pytest.mark.usefixtures("backend_needed")
def test_a_full_disk_stops_train_at_its_checkpoint(small_shards: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 300) as disk:
        ended = run("train", SMALL_UNET.name, small_shards, "--set", "base_width=96", "--epochs", 2, "-o", disk)
        assert ended.code == STORAGE
        assert "best.h5: cannot be written (No space left on device); nothing half-written" in ended.error
        assert not [name for name in files_below(disk) if name.endswith((".partial", ".h5"))]
        (run_folder,) = disk.iterdir()
        assert read_record(RunPaths(run_folder)).status == "failed"


def test_a_full_disk_stops_predict_with_whole_maps_left(finished: Path, small_dataset: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        (disk / "fill").write_bytes(bytes(52 * 1024))
        ended = run("predict", finished, small_dataset, "-o", disk / "maps")
        assert ended.code == STORAGE
        assert "cannot be written (No space left on device)" in ended.error
        for name in files_below(disk) - {"fill"}:
            assert not name.endswith(".partial")
            assert json.loads((disk / name).read_bytes()) if name.endswith(".json") else whole(disk / name)
        assert len(files_below(disk)) < 2 + 2 * 4


def whole(image: Path) -> bool:
    """Whether every voxel of an image can be read."""
    return bool(np.isfinite(nib.nifti1.load(image).get_fdata()).all())


def test_a_full_disk_stops_collect_and_the_report(finished: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 12) as disk:
        ended = run("collect", finished, "-o", disk / "tables")
        assert ended.code == STORAGE
        assert "cannot be written (No space left on device)" in ended.error
        assert not [name for name in files_below(disk) if not name.endswith(".parquet")]
        assert run("collect", finished, "-o", tmp_path / "tables").code == 0
        ended = run("report", tmp_path / "tables", "-o", disk / "report.html")
        assert ended.code == STORAGE
        assert "report.html: cannot be written (No space left on device)" in ended.error
        assert "report.html" not in files_below(disk)


def test_an_output_that_cannot_be_written_is_named(small_dataset: Path, small_shards: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for words in (
        ("prepare", small_dataset, *SIZE, "-o", tmp_path / "file/below"),
        (*TRAIN, small_shards, "-o", tmp_path / "file/below"),
        ("phantom", tmp_path / "file/below"),
    ):
        ended = run(*words)
        assert ended.code == STORAGE
        assert f"{tmp_path / 'file/below'}" in ended.error
        assert "cannot be written (Not a directory)" in ended.error
    assert files_below(tmp_path) == {"file"}


def test_a_folder_of_somebody_else_is_not_written_to(small_dataset: Path, small_shards: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv to be somebody else")
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    if run("--version", before=nobody).code:
        pytest.skip("another user may not read this environment")
    closed = [parent for parent in tmp_path.parents if not parent.stat().st_mode & 0o001]
    for folder in (tmp_path, *closed, small_dataset.parent, small_shards.parent):
        folder.chmod(0o755)
    for words in (("prepare", small_dataset, *SIZE, "-o"), (*TRAIN, small_shards, "-o"), ("phantom",)):
        ended = run(*words, tmp_path / "theirs", before=nobody)
        assert ended.code == STORAGE
        assert "cannot be written (Permission denied)" in ended.error
    assert not list(tmp_path.iterdir())


def test_ctrl_c_stops_prepare_with_whole_shards_left(small_dataset: Path, tmp_path: Path) -> None:
    command = ("prepare", small_dataset, "--set", "size=[160,160,160]", "-o", "shards")
    first = tmp_path / "shards/cases/sub-01.h5"
    ended = stopped(*command, when=first.exists, cwd=tmp_path)
    assert ended.code == INTERRUPTED
    assert ended.error.startswith("shards: stopped by Ctrl-C, finished shards are kept; run the same command again")
    left = files_below(tmp_path)
    assert "shards/cases/sub-01.h5" in left
    assert left < {f"shards/cases/sub-0{number}.h5" for number in (1, 2, 3, 4)}
    made = first.stat().st_mtime_ns
    assert run(*command, cwd=tmp_path).code == 0
    assert first.stat().st_mtime_ns == made
    verify_shards(tmp_path / "shards", load_manifest(tmp_path / "shards"))


@pytest.mark.slow
@pytest.mark.usefixtures("backend_needed")
def test_ctrl_c_stops_train_and_the_same_command_goes_on(small_shards: Path, tmp_path: Path) -> None:
    command = (*TRAIN, small_shards, *NARROW, "--epochs", 12, "-o", "runs", "--batch-size", 4)
    ended = stopped(*command, when=lambda: bool(list(tmp_path.glob("runs/*/checkpoints/last.h5"))), cwd=tmp_path)
    assert ended.code == INTERRUPTED
    *epochs, line = ended.stderr.splitlines()
    assert all(epoch.startswith("epoch ") for epoch in epochs)
    assert line.startswith("error: stopped by SIGINT, state saved; run the same command again")
    (run_folder,) = (tmp_path / "runs").iterdir()
    paths = RunPaths(run_folder)
    stopped_at = read_record(paths)
    assert stopped_at.status == "interrupted"
    assert 1 <= stopped_at.epochs < 12
    assert not [name for name in files_below(tmp_path) if name.endswith(".partial")]
    ended = run(*command, cwd=tmp_path)
    assert ended.code == 0
    assert ended.stderr.startswith(f"epoch {stopped_at.epochs + 1}/12")
    assert (read_record(paths).status, read_record(paths).epochs) == ("complete", 12)


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ("evaluate", "stopped by SIGINT, earlier scores are kept; run the same command again"),
        ("predict", "stopped by SIGINT, finished maps are kept; run the same command again"),
    ],
)
def test_ctrl_c_stops_evaluate_and_predict(
    finished: Path, small_shards: Path, small_dataset: Path, tmp_path: Path, job: str, words: str
) -> None:
    inputs = (small_shards,) if job == "evaluate" else (small_dataset, "-o", "maps")
    before = files_below(finished)
    events = finished / f"telemetry/{job}-0/events.arrows"
    ended = stopped(job, finished, *inputs, when=lambda: "setup" in phases(events), cwd=tmp_path)
    assert ended.code == INTERRUPTED
    assert ended.error.startswith(words)
    new = files_below(finished) - before
    assert all(name.startswith((f"telemetry/{job}-0/", f"jobs/{job}.json")) for name in new)
    assert files_below(tmp_path / "maps") <= {
        f"mspipeline-{finished_id}/{name}"
        for finished_id in [read_record(RunPaths(finished)).run_id]
        for name in (
            "dataset_description.json",
            *(f"sub-01/anat/sub-01_label-lesion_{kind}.{ending}" for kind in KINDS for ending in ("json", "nii.gz")),
        )
    }


KINDS = ("mask", "probseg")


def phases(events: Path) -> list[str]:
    """The phases that a job has begun or ended so far."""
    return read_stream(events, EVENTS)["phase"].to_pylist() if events.exists() else []


@pytest.mark.usefixtures("backend_needed")
def test_a_job_that_the_system_kills_is_told_in_one_line(small_shards: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(run, *TRAIN, small_shards, *NARROW, "-o", tmp_path / "runs")
        wait_for(lambda: training.done() or bool(list((tmp_path / "runs").glob("*/telemetry/train-0/events.arrows"))))
        config = next((tmp_path / "runs").glob("*/telemetry/train-0/job.json"))
        for process in psutil.process_iter(["cmdline"]):
            if (process.info["cmdline"] or [])[3:6] == ["mspipeline.jobs", "train", str(config)]:
                process.kill()
        ended = training.result()
    assert ended.code == 128 + 9
    assert ended.error.startswith(
        "train: the job was ended by SIGKILL; most often memory ran out; run the same command"
    )


@pytest.mark.slow
@pytest.mark.usefixtures("backend_needed")
def test_ctrl_c_stops_a_sweep_and_resume_finishes_it(small_shards: Path, tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text(
        'name = "tiny"\n[matrix]\nmodel = ["unet2d"]\n[models.unet2d]\nbase_width = 2\n[training]\nepochs = 12\n'
    )
    command = ("sweep", "sweep.toml", "--shards", small_shards, "-o", "sweep")
    ended = stopped(*command, when=lambda: bool(list(tmp_path.glob("sweep/cells/*/checkpoints/last.h5"))), cwd=tmp_path)
    assert ended.code == INTERRUPTED
    assert "stopped with 0 of 1 cells done; continue with `mspipeline resume" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    assert json.loads(run("status", tmp_path / "sweep", "--json").stdout)[0]["state"] == "interrupted"
    assert run("resume", tmp_path / "sweep").code == 0
    assert json.loads(run("status", tmp_path / "sweep", "--json").stdout)[0]["state"] == "done"
