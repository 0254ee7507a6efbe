"""One training in two tasks of a step of a real SLURM."""

import json
import subprocess
import sys

import pytest

from mspipeline.backends.registry import availability
from mspipeline.config import ModelSettings, TrainingSettings, TrainJob
from mspipeline.errors import ConfigError
from mspipeline.runs import RunPaths, read_record, read_rows
from mspipeline.slurm.srun import srun_words
from mspipeline.tables.schema import EPOCHS

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def training(shards, folder):
    """The configuration of a training of two processes, as a file."""
    job = TrainJob(
        model=ModelSettings(name="unet2d", arguments={"base_width": 2}),
        backend="torch",
        shards=shards,
        run_folder=folder / "run",
        threads=1,
        processes=2,
        training=TrainingSettings(epochs=2, batch_size=6, learning_rate=1e-4, loss="dice"),
    )
    config = folder / "train.json"
    config.write_text(json.dumps(job.model_dump(mode="json")))
    return job, [sys.executable, "-P", "-m", "mspipeline.jobs", "supervise", "train", str(config)]


@pytest.fixture(autouse=True)
def _torch():
    if problem := availability("torch").problem:
        pytest.skip(problem)


STEP = (*srun_words(mpi="none"), "--partition=cpu", "--ntasks=2", "--mem=0")


@pytest.mark.timeout(600)
def test_two_tasks_of_a_step_on_one_node_train_together(cluster, small_shards, tmp_path):
    job, command = training(small_shards, tmp_path)
    cluster.run(*STEP, "--nodes=1", *command)
    paths = RunPaths(job.run_folder)
    record = read_record(paths)
    assert (record.status, record.processes, record.epochs) == ("complete", 2, 2)
    rows = read_rows(paths.epochs, EPOCHS).to_pylist()
    assert [row["images"] for row in rows] == [32, 16, 32, 16]
    assert [each.folder.name for each in paths.attempts()] == ["train-0"]  # rank 0's alone


@pytest.mark.timeout(240)  # less than the processes would wait for each other
def test_nodes_whose_names_no_resolver_knows_are_told_at_once_with_what_to_set(cluster, small_shards, tmp_path):
    _, command = training(small_shards, tmp_path)
    done = subprocess.run([*STEP, "--nodes=2", *command], capture_output=True, text=True, check=False)
    assert done.returncode == ConfigError.exit_code
    errors = [line for line in done.stderr.splitlines() if "MASTER_ADDR" in line]
    assert errors
    assert all("'c1', where the processes are to meet, is a name that this machine does not know" in e for e in errors)
