"""`prepare` on MPI ranks, started as a user starts it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest

from mspipeline.files import sha256_file
from tests.command_line import PROGRAM, Ended, files_below, run, wait_for
from tests.mpi_launch import mpirun, of_rank, require_mpi, shared_memory, started

pytestmark = pytest.mark.mpi

SMALL = ("--set", "size=[32,32,16]")
LARGE = ("--set", "size=[160,160,160]")


@pytest.fixture(autouse=True)
def _mpi() -> None:
    require_mpi()


def prepare(ranks: int, dataset: Path, output: Path, *words: object) -> Ended:
    return mpirun(ranks, PROGRAM, "prepare", dataset, "-o", output, *(words or SMALL))


def data_of(folder: Path) -> dict[str, str]:
    return {name: sha256_file(folder / name) for name in files_below(folder) if name != "prepare.json"}


@pytest.fixture(scope="module")
def of_one(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What one process writes, without any launcher."""
    output = tmp_path_factory.mktemp("one") / "shards"
    assert run("prepare", small_dataset, *SMALL, "-o", output).code == 0
    return data_of(output)


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_any_number_of_ranks_writes_the_bytes_of_one(
    small_dataset: Path, tmp_path: Path, of_one: dict[str, str], ranks: int
) -> None:
    ended = prepare(ranks, small_dataset, tmp_path / "shards")
    assert ended.code == 0, ended.stderr
    assert data_of(tmp_path / "shards") == of_one
    assert ended.stdout.count("4 cases") == 1
    times = json.loads((tmp_path / "shards/prepare.json").read_text())
    assert [rank["rank"] for rank in times["ranks"]] == list(range(ranks))
    assert sum(rank["cases"] for rank in times["ranks"]) == 4
    assert sum(rank["bytes"] for rank in times["ranks"]) == sum(
        (tmp_path / "shards" / name).stat().st_size for name in of_one if name.endswith(".h5")
    )
    busy = [rank["seconds"] for rank in times["ranks"]]
    assert times["skew"] == pytest.approx(max(busy) / (sum(busy) / ranks))
    assert f"INFO rank 0 mspipeline.jobs.work.prepare_times: 4 cases on {ranks} ranks" in ended.stderr
    assert prepare(2, small_dataset, tmp_path / "shards").code == 0
    assert json.loads((tmp_path / "shards/prepare.json").read_text()) == times


def test_the_job_of_a_container_shares_its_cases_too(
    small_dataset: Path, tmp_path: Path, of_one: dict[str, str]
) -> None:
    recipe = Path(sys.modules["mspipeline"].__file__ or "").parent / "recipes/slices2d/slices2d.toml"
    (tmp_path / "small.toml").write_text(recipe.read_text().replace("size = [256, 256, 256]", "size = [32, 32, 16]"))
    config = tmp_path / "prepare.toml"
    config.write_text(f'dataset = "{small_dataset}"\noutput = "shards"\nrecipe = "small.toml"\n')
    ended = mpirun(2, sys.executable, "-m", "mspipeline.jobs", "prepare", config, cwd=tmp_path, PYTHONPATH=os.getcwd())
    assert ended.code == 0, ended.stderr
    assert data_of(tmp_path / "shards") == of_one


def test_a_rank_that_fails_ends_all_with_one_line_that_names_its_case(small_dataset: Path, tmp_path: Path) -> None:
    scans = shutil.copytree(small_dataset, tmp_path / "scans")
    path = scans / "sub-03/anat/sub-03_FLAIR.nii.gz"
    image = nib.nifti1.load(path)
    data = np.asarray(image.dataobj, np.float32)
    data[9, 9, 9] = np.nan
    nib.Nifti1Image(data, image.affine).to_filename(path)
    for ranks in (2, 4):
        ended = prepare(ranks, scans, tmp_path / "shards")
        assert ended.code == 65
        assert "sub-03: " in ended.error
        assert "1 voxels are NaN" in ended.error
        left = files_below(tmp_path / "shards")
        assert left < {f"cases/sub-0{number}.h5" for number in (1, 2, 4)} | {""}
    made = {name: (tmp_path / "shards" / name).stat().st_mtime_ns for name in files_below(tmp_path / "shards")}
    shutil.copy(small_dataset / "sub-03/anat/sub-03_FLAIR.nii.gz", path)
    assert prepare(3, scans, tmp_path / "shards").code == 0
    assert {name: (tmp_path / "shards" / name).stat().st_mtime_ns for name in made} == made


def test_what_is_wrong_before_any_work_is_said_once(small_dataset: Path, tmp_path: Path) -> None:
    assert "no such folder" in prepare(3, tmp_path / "nowhere", tmp_path / "shards").error
    ended = prepare(3, small_dataset, tmp_path / "shards", "--set", "szie=[8,8,8]")
    assert ended.code == 78
    assert "did you mean 'size'" in ended.error


@pytest.mark.parametrize(
    ("number", "rank", "code", "words"),
    [
        (signal.SIGINT, None, 130, "stopped by Ctrl-C, finished shards are kept; run the same command again"),
        (signal.SIGKILL, 2, 9, ""),
        pytest.param(signal.SIGTERM, 2, 75, "stopped by SIGTERM, finished shards are kept", marks=pytest.mark.long),
        pytest.param(signal.SIGKILL, 0, 9, "", marks=pytest.mark.long),
        pytest.param(signal.SIGKILL, None, -9, "", marks=pytest.mark.long),
    ],
)
def test_a_prepare_that_is_stopped_or_killed_makes_only_the_missing_cases_next_time(
    small_dataset: Path, tmp_path: Path, number: signal.Signals, rank: int | None, code: int, words: str
) -> None:
    command = (PROGRAM, "prepare", small_dataset, *LARGE, "-o", "shards")
    cases = tmp_path / "shards/cases"
    with started(3, *command, cwd=tmp_path) as process:
        wait_for(lambda: process.poll() is not None or bool(list(cases.glob("*.h5"))))
        ranks = psutil.Process(process.pid).children(recursive=True)
        left_behind = shared_memory([child.pid for child in ranks])
        if rank is not None:
            os.kill(of_rank(process.pid, rank), number)
        elif number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == code
    _, left = psutil.wait_procs(ranks, timeout=10)
    assert not left
    for path in left_behind:
        path.unlink(missing_ok=True)
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert [words in line for line in errors] == ([True] if words else [])
    assert not (tmp_path / "shards/manifest.json").exists()
    made = {path: path.stat().st_mtime_ns for path in cases.glob("*.h5")}
    assert 1 <= len(made) <= 4
    (cases / "sub-01.h5.partial").write_bytes(b"half")

    again = mpirun(3, *command, cwd=tmp_path)

    assert again.code == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert files_below(tmp_path / "shards") == {
        *("manifest.json", "prepare.json"),
        *(f"cases/sub-0{case}.h5" for case in (1, 2, 3, 4)),
    }


def test_a_second_prepare_on_the_folder_is_refused_while_the_first_one_runs(
    small_dataset: Path, tmp_path: Path
) -> None:
    command = (PROGRAM, "prepare", small_dataset, *LARGE, "-o", "shards")
    with started(2, *command, cwd=tmp_path) as first:
        wait_for(lambda: first.poll() is not None or bool(list(tmp_path.glob("shards/cases/*"))))
        ranks = [of_rank(first.pid, rank) for rank in (0, 1)]
        for pid in ranks:
            os.kill(pid, signal.SIGSTOP)
        second = run(*command[1:], cwd=tmp_path)
        for pid in ranks:
            os.kill(pid, signal.SIGCONT)
        assert second.code == 75
        assert f"shards: another prepare writes to this folder (process {ranks[0]} on " in second.error
        assert first.wait(timeout=120) == 0
    assert not (tmp_path / "shards/prepare.lock").exists()


def test_ranks_without_mpi4py_are_told_in_one_line(small_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "hidden/mpi4py").mkdir(parents=True)
    (tmp_path / "hidden/mpi4py/__init__.py").write_text("raise ImportError(\"No module named 'mpi4py'\")")
    ended = mpirun(3, PROGRAM, "prepare", small_dataset, "-o", tmp_path / "shards", PYTHONPATH=str(tmp_path / "hidden"))
    assert ended.code == 69
    assert ended.error.startswith("started as 3 MPI ranks, but mpi4py cannot be used (No module named 'mpi4py');")
    assert not (tmp_path / "shards").exists()


def test_ranks_that_another_mpi_started_are_told_in_one_line(small_dataset: Path, tmp_path: Path) -> None:
    # What Open MPI's mpirun leaves in the environment of its ranks, to which MPICH is deaf.
    words = ("prepare", small_dataset, "-o", tmp_path / "shards")
    ended = run(*words, OMPI_COMM_WORLD_RANK="0", OMPI_COMM_WORLD_SIZE="4")
    assert ended.code == 69
    assert "started as 4 MPI ranks (OMPI_COMM_WORLD_RANK), but mpi4py sees 1: it uses another MPI" in ended.error
    other = run(*words, OMPI_COMM_WORLD_RANK="1", OMPI_COMM_WORLD_SIZE="4")
    assert (other.code, other.stdout, other.stderr) == (69, "", "")
    assert not (tmp_path / "shards").exists()


def test_srun_without_mpi_is_told_in_one_line(small_dataset: Path, tmp_path: Path) -> None:
    ended = run(*("prepare", small_dataset, "-o", tmp_path / "shards"), SLURM_PROCID="0", SLURM_STEP_NUM_TASKS="4")
    assert ended.code == 69
    assert ended.error.startswith("srun started 4 processes that cannot talk to each other; add --mpi=pmi2 to srun")


def test_one_process_and_a_launcher_of_one_load_no_mpi(small_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "hidden/mpi4py").mkdir(parents=True)
    (tmp_path / "hidden/mpi4py/__init__.py").write_text("raise SystemExit('mpi4py was imported')")
    words = ("prepare", small_dataset, *SMALL, "-o")
    assert run(*words, tmp_path / "none", PYTHONPATH=str(tmp_path / "hidden")).code == 0
    assert mpirun(1, PROGRAM, *words, tmp_path / "one", PYTHONPATH=str(tmp_path / "hidden")).code == 0
