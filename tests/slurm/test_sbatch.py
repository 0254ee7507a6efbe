"""The scripts for plain sbatch: accepted by SLURM, and run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from process_watch import wait_for

SCRIPTS = Path(__file__).parents[2] / "slurm" / "sbatch"
NAMES = sorted(path.name for path in SCRIPTS.glob("*.sbatch"))
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
    asked = ["sbatch", "--test-only", "-p", "cpu", "--mem=2G", str(SCRIPTS / name)]
    said = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert "to start at" in said.stderr


def hand_over(cluster, folder, name, *words, options=()):
    """Submit a script; (job, where its output goes)."""
    log = folder / f"{name}.out"
    given = ("sbatch", "--parsable", "-p", "cpu", "--mem=3G", "--cpus-per-task=1", f"--output={log}", *options)
    return cluster.run(*given, str(SCRIPTS / name), *words).strip(), log


def is_over(cluster, job):
    wait_for(lambda: cluster.run("squeue", "-h", "-r", "-o", "%A %F").find(job) < 0, 200)


@pytest.fixture
def program(monkeypatch, backend_needed):
    if not COMMAND.exists():
        pytest.skip(f"no {COMMAND}; pip install -e . puts it there")
    monkeypatch.setenv("MSPIPELINE", str(COMMAND))


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
    suite.write_text(
        'name = "small"\nthreads = 1\n[matrix]\nmodel = ["unet2d"]\n[models.unet2d]\nbase_width = 2\n'
        "[training]\nepochs = 1\nbatch_size = 5\n"
    )
    words = (str(suite), "--shards", str(small_shards), "-o", str(tmp_path / "sweep"))
    job, log = hand_over(cluster, tmp_path, "sweep.sbatch", *words)
    is_over(cluster, job)
    assert (tmp_path / "sweep" / "report.html").exists(), log.read_text()[-2000:]
