"""The scripts for plain sbatch: accepted by SLURM, and run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.campaigns.process_watch import wait_for

SCRIPTS = Path(__file__).parents[2] / "slurm" / "sbatch"
NAMES = sorted(path.name for path in SCRIPTS.glob("*.sbatch"))
MEMORY = {"prepare_mpi.sbatch": ["--mem-per-cpu=500M"]}
"""As a user would ask where the defaults are more than the nodes of the test cluster have."""
COMMAND = Path(sys.executable).with_name("mspipeline")


@pytest.mark.parametrize("name", NAMES)
def test_a_script_begins_with_a_line_that_submits_it(name):
    lines = (SCRIPTS / name).read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    assert any(line.startswith("#   sbatch ") and f"slurm/sbatch/{name} " in line for line in lines[:4])
    assert subprocess.run(["bash", "-n", SCRIPTS / name], check=False).returncode == 0


@pytest.mark.slurm
@pytest.mark.parametrize("name", NAMES)
def test_slurm_would_take_it(cluster, name):
    asked = ["sbatch", "--test-only", "-p", "cpu", *MEMORY.get(name, ["--mem=2G"]), str(SCRIPTS / name)]
    said = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert "to start at" in said.stderr


def hand_over(cluster, folder, name, *words, options=(), memory="--mem=3G"):
    """Submit a script; (job, where its output goes)."""
    log = folder / f"{name}.out"
    given = ("sbatch", "--parsable", "-p", "cpu", memory, "--cpus-per-task=1", f"--output={log}", *options)
    return cluster.run(*given, str(SCRIPTS / name), *words).strip(), log


def is_over(cluster, job):
    wait_for(lambda: cluster.run("squeue", "-h", "-r", "-o", "%A %F").find(job) < 0, 200)


@pytest.fixture
def program(monkeypatch, backend_needed):
    if not COMMAND.exists():
        pytest.skip(f"no {COMMAND}; pip install -e . puts it there")
    monkeypatch.setenv("MSPIPELINE", str(COMMAND))


SUITE = (
    'name = "small"\nthreads = 1\n[matrix]\nmodel = ["unet2d"]\n[models.unet2d]\nbase_width = 2\n'
    "[training]\nepochs = 1\nbatch_size = 5\n"
)
SMALL = ("--batch-size", "5", "--set", "base_width=2")


@pytest.mark.slurm
@pytest.mark.long
def test_a_training_that_is_warned_puts_itself_back_and_goes_on(cluster, program, small_shards, tmp_path):
    words = ("unet2d", str(small_shards), "-o", str(tmp_path / "runs"), "--epochs", "20", *SMALL)
    job, log = hand_over(cluster, tmp_path, "train.sbatch", *words)
    wait_for(lambda: list(tmp_path.glob("runs/*/epochs.arrow")), 120)
    cluster.run("scancel", "--signal=USR2", job)
    cluster.start_again(job)
    is_over(cluster, job)
    (record,) = tmp_path.glob("runs/*/run.json")
    found = json.loads(record.read_text())
    assert (found["status"], found["restart_count"], found["epochs"]) == ("complete", 1, 20), log.read_text()[-2000:]


@pytest.mark.slurm
@pytest.mark.long
def test_an_array_trains_one_seed_an_element(cluster, program, small_shards, tmp_path):
    words = ("unet2d", str(small_shards), "-o", str(tmp_path / "runs"), "--epochs", "1", *SMALL)
    job, log = hand_over(cluster, tmp_path, "seeds_array.sbatch", *words, options=("--array=3-4",))
    is_over(cluster, job)
    found = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/run.json")]
    assert sorted((run["seed"], run["status"]) for run in found) == [(3, "complete"), (4, "complete")], log.read_text()


@pytest.mark.slurm
@pytest.mark.long
def test_a_sweep_in_one_allocation_ends_with_its_page(cluster, program, small_shards, tmp_path):
    suite = tmp_path / "small.toml"
    suite.write_text(SUITE)
    words = (str(suite), "--shards", str(small_shards), "-o", str(tmp_path / "sweep"))
    job, log = hand_over(cluster, tmp_path, "sweep.sbatch", *words)
    is_over(cluster, job)
    assert (tmp_path / "sweep" / "report.html").exists(), log.read_text()[-2000:]


@pytest.mark.slurm
@pytest.mark.long
def test_scans_are_prepared_by_several_ranks_into_the_shards_of_one(cluster, monkeypatch, small_dataset, tmp_path):
    pytest.importorskip("mpi4py", reason="no mpi4py here; pip install mpi4py mpich")
    monkeypatch.setenv("MSPIPELINE", str(COMMAND))
    words = (str(small_dataset), "--set", "size=[32,32,16]", "-o")
    job, log = hand_over(
        cluster,
        tmp_path,
        "prepare_mpi.sbatch",
        *words,
        str(tmp_path / "by-two"),
        options=("--ntasks=2",),
        memory="--mem-per-cpu=1G",
    )
    is_over(cluster, job)
    assert (tmp_path / "by-two" / "manifest.json").exists(), log.read_text()[-2000:]
    subprocess.run([COMMAND, "prepare", *words, str(tmp_path / "by-one")], check=True, capture_output=True)
    for shard in (tmp_path / "by-one").rglob("*.h5"):
        twin = tmp_path / "by-two" / shard.relative_to(tmp_path / "by-one")
        assert twin.read_bytes() == shard.read_bytes()


@pytest.mark.slurm
@pytest.mark.long
def test_a_night_that_is_requeued_stays_that_night_and_ends_with_its_page(cluster, program, small_shards, tmp_path):
    suite = tmp_path / "small.toml"
    suite.write_text(SUITE.replace("epochs = 1", "epochs = 60"))
    nights = tmp_path / "nights"
    job, log = hand_over(cluster, tmp_path, "nightly.sbatch", str(suite), str(small_shards), str(nights))
    wait_for(lambda: list(nights.glob("*/cells/*/epochs.arrow")), 200)
    cluster.run("scontrol", "requeue", job)
    cluster.start_again(job)
    is_over(cluster, job)
    pages = list(nights.glob("*/report.html"))
    assert [page.parent.name.rpartition("-")[2] for page in pages if page.parent.name != "latest"] == [job], (
        log.read_text()[-2000:]
    )
    assert (nights / "latest" / "report.html").exists()
    state = cluster.run("scontrol", "show", "job", job)
    assert "ExitCode=0:0" in state


@pytest.mark.slurm
@pytest.mark.long
def test_a_night_on_which_the_cells_fail_says_so_by_its_exit_code(cluster, program, small_shards, tmp_path):
    suite = tmp_path / "small.toml"
    suite.write_text(SUITE.replace("base_width = 2", "base_width = 1000000"))
    nights = tmp_path / "nights"
    job, log = hand_over(cluster, tmp_path, "nightly.sbatch", str(suite), str(small_shards), str(nights))
    is_over(cluster, job)
    assert "JobState=FAILED" in cluster.run("scontrol", "show", "job", job), log.read_text()[-2000:]
    assert "ExitCode=0:0" not in cluster.run("scontrol", "show", "job", job)
