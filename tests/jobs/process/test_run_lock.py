"""Two commands on one run: each gets its own job, one training and one evaluation works at a time."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mspipeline.config import TrainJob
from mspipeline.errors import FolderInUse, StorageError
from mspipeline.jobs.process.run_lock import hold_run
from mspipeline.jobs.registry import JOBS
from mspipeline.runs import RunPaths, read_record, read_rows
from mspipeline.tables.schema import CASES
from tests.command_line import PROGRAM, files_below, run, wait_for

NARROW = ("--set", "base_width=2", "--loss", "dice", "--threads", "1")


@pytest.fixture
def finished(trained_run: TrainJob, tmp_path: Path) -> Path:
    """A finished run of the test's own."""
    return Path(shutil.copytree(trained_run.run_folder, tmp_path / "run"))


def scans_of(dataset: Path, folder: Path, subject: str) -> Path:
    """A dataset of one subject's scan, without its mask."""
    target = folder / f"scans-{subject}"
    shutil.copytree(dataset / subject, target / subject)
    return target


@pytest.mark.slow
def test_predictions_with_one_run_at_once_each_write_their_own_maps(
    small_dataset: Path, finished: Path, tmp_path: Path
) -> None:
    subjects = ["sub-01", "sub-02", "sub-03"]
    inputs = [scans_of(small_dataset, tmp_path, subject) for subject in subjects]
    with ThreadPoolExecutor(3) as pool:
        ends = list(pool.map(lambda scans: run("predict", finished, scans, "-o", f"{scans}-maps"), inputs))
    assert [end.code for end in ends] == [0, 0, 0], ends
    for subject, scans in zip(subjects, inputs, strict=True):
        masks = [path for path in files_below(Path(f"{scans}-maps")) if path.endswith("_mask.nii.gz")]
        assert [Path(mask).name for mask in masks] == [f"{subject}_label-lesion_mask.nii.gz"]
    attempts = RunPaths(finished).attempts("predict")
    assert [each.attempt for each in attempts] == [0, 1, 2]
    asked = {json.loads(each.config.read_text())["dataset"] for each in attempts}
    assert asked == {str(scans) for scans in inputs}


@pytest.mark.slow
def test_of_two_trainings_of_one_run_the_second_is_refused_and_the_first_unharmed(
    small_shards: Path, tmp_path: Path
) -> None:
    command = [str(PROGRAM), "train", "unet2d", str(small_shards), *NARROW, "--epochs", "6", "-o", str(tmp_path)]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: first.poll() is not None or bool(list(tmp_path.glob("*/telemetry/train-0/events.arrows"))))
    second = run(*command[1:])
    (folder,) = tmp_path.iterdir()
    assert second.code == FolderInUse.exit_code == 75
    assert re.fullmatch(
        rf"{folder}: another train works on this run \(process {first.pid} on {os.uname().nodename}, since 20\S+\); "
        "wait until it has ended, then run the same command again",
        second.error,
    )
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 0, errors
    assert (read_record(RunPaths(folder)).status, read_record(RunPaths(folder)).epochs) == ("complete", 6)
    assert [each.folder.name for each in RunPaths(folder).attempts()] == ["train-0"]
    assert not (folder / "train.lock").exists()
    assert run(*command[1:]).code == 0  # a finished one is left as it is


@pytest.mark.slow
def test_evaluations_at_once_end_well_or_say_who_is_there(small_shards: Path, finished: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(lambda _: run("evaluate", finished, small_shards, "--json"), range(2)))
    codes = sorted(end.code for end in ends)
    assert codes in ([0, 75], [0, 0]), ends  # one may begin when the other has ended
    for end in ends:
        if end.code:
            assert "another evaluate works on this run (process" in end.error
    assert len(read_rows(RunPaths(finished).cases, CASES)) == 2


@pytest.mark.slow
def test_a_run_whose_holder_died_goes_on_without_a_hand(small_shards: Path, tmp_path: Path) -> None:
    command = [str(PROGRAM), "train", "unet2d", str(small_shards), *NARROW, "--epochs", "40", "-o", str(tmp_path)]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_for(lambda: first.poll() is not None or bool(list(tmp_path.glob("*/checkpoints/last.h5"))))
    first.kill()
    first.wait()
    (folder,) = tmp_path.iterdir()
    assert (folder / "train.lock").exists()
    (folder / "checkpoints/last.h5.0a1b2c3d.partial").write_bytes(b"half")
    (folder / "cases.arrow.0a1b2c3d.partial").write_bytes(b"of an evaluation that may live")
    ended = run(*command[1:-1], str(tmp_path))
    assert ended.code == 0, ended.stderr
    assert read_record(RunPaths(folder)).status == "complete"
    assert [path for path in files_below(folder) if path.endswith((".partial", ".lock"))] == [
        "cases.arrow.0a1b2c3d.partial"
    ]


def test_a_training_and_an_evaluation_do_not_stand_in_each_others_way(tmp_path: Path) -> None:
    with hold_run(tmp_path, JOBS["train"]), hold_run(tmp_path, JOBS["evaluate"]):
        assert {path.name for path in tmp_path.iterdir()} == {"train.lock", "evaluate.lock"}
        with pytest.raises(FolderInUse, match="another train works on this run"), hold_run(tmp_path, JOBS["train"]):
            pass
    assert list(tmp_path.iterdir()) == []


HOLDS = """
import sys, time
from pathlib import Path
from mspipeline.parallel import lock
from mspipeline.jobs.process.run_lock import hold_run
from mspipeline.jobs.registry import JOBS
lock.BEAT_S = 0.1
with hold_run(Path(sys.argv[1]), JOBS["train"]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_training_that_lost_its_run_to_another_ends_with_a_line(tmp_path: Path) -> None:
    note = {"host": "node7", "pid": 42, "since": "2026-01-01T00:00:00+00:00", "token": "a", "kernel": "k", "beat": 0}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGSTOP)  # suspended by a scheduler, say
        RunPaths(tmp_path).lock("train").write_text(json.dumps(note))
        process.send_signal(signal.SIGCONT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == FolderInUse.exit_code
    assert errors == (
        f"error: {tmp_path}: taken over by process 42 on node7, since 2026-01-01T00:00:00+00:00, for this train had "
        "stopped; it ends here\n"
    )


@pytest.mark.slow
def test_the_tasks_of_a_step_that_train_together_write_one_job(small_shards: Path, tmp_path: Path) -> None:
    """As `srun --ntasks=2 mspipeline train ... --processes 2` starts them."""
    words = ["train", "unet2d", small_shards, *NARROW, "--epochs", "1", "--batch-size", "6", "--processes", "2"]
    step = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}
    step |= {"SLURM_STEP_NODELIST": "localhost", "MASTER_ADDR": "127.0.0.1"}

    def task(rank: int) -> subprocess.Popen[str]:
        environment = {**os.environ, **step, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
        command = [str(PROGRAM), *map(str, words), "-o", str(tmp_path)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    tasks = [task(rank) for rank in range(2)]
    ends = [each.communicate(timeout=250) for each in tasks]
    assert [each.returncode for each in tasks] == [0, 0], ends
    (folder,) = tmp_path.iterdir()
    assert read_record(RunPaths(folder)).status == "complete"
    assert [each.folder.name for each in RunPaths(folder).attempts()] == ["train-0"]
    assert [len(stdout.splitlines()) for stdout, _ in ends] == [1, 0]  # the result is rank 0's to print


def read_only(folder: Path) -> list[str]:
    """The start of a command line for which a folder is on a read-only disk; skips without root."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare, to make a folder read-only")
    mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    return ["unshare", "-m", "bash", "-c", mount, str(folder)]


@pytest.mark.slow
def test_a_run_that_cannot_be_written_predicts_and_an_evaluation_says_what_it_needs(
    small_dataset: Path, small_shards: Path, finished: Path, tmp_path: Path
) -> None:
    before = files_below(finished)
    scans = scans_of(small_dataset, tmp_path, "sub-01")
    start = tuple(read_only(finished))
    predicted = run("predict", finished, scans, "-o", tmp_path / "maps", before=start)
    assert predicted.code == 0, predicted.stderr
    assert predicted.stderr.startswith(
        f"warning: {finished}: cannot be written, so no telemetry is kept of this predict"
    )
    assert len([path for path in files_below(tmp_path / "maps") if path.endswith(".nii.gz")]) == 2
    scored = run("evaluate", finished, small_shards, "--json", before=start)
    assert scored.code == StorageError.exit_code
    assert scored.error == (
        f"{finished}: cannot be written (Read-only file system); evaluate keeps its scores in the run's folder: copy "
        "the run to a place that you may write"
    )
    assert files_below(finished) == before


def test_attempts_that_begin_at_once_have_folders_of_their_own(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: paths.new_attempt("predict").folder.name, range(40)))
    assert sorted(made, key=lambda name: int(name.rpartition("-")[2])) == [f"predict-{n}" for n in range(40)]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/telemetry").touch()
    with pytest.raises(StorageError, match="telemetry"):
        RunPaths(tmp_path / "other").new_attempt("train")
