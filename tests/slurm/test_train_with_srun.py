"""One training in two tasks of a step of a real SLURM."""

import json
import sys

import pytest

from mspipeline.backends.registry import availability
from mspipeline.config import ModelSettings, TrainingSettings, TrainJob
from mspipeline.runs import RunPaths, read_record, read_rows
from mspipeline.telemetry.schema import EPOCHS

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.mark.timeout(600)
def test_two_tasks_of_a_step_train_together(cluster, small_shards, tmp_path, monkeypatch):
    if problem := availability("torch").problem:
        pytest.skip(problem)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # the cluster's nodes have names that no resolver knows
    job = TrainJob(
        model=ModelSettings(name="unet2d", arguments={"base_width": 2}),
        backend="torch",
        shards=small_shards,
        run_folder=tmp_path / "run",
        threads=1,
        processes=2,
        training=TrainingSettings(epochs=2, batch_size=6, learning_rate=1e-4, loss="dice"),
    )
    config = tmp_path / "train.json"
    config.write_text(json.dumps(job.model_dump(mode="json")))
    step = ("srun", "--mpi=none", "--kill-on-bad-exit=1", "--partition=cpu", "--ntasks=2", "--mem=0")
    cluster.run(*step, sys.executable, "-P", "-m", "mspipeline.jobs", "supervise", "train", str(config))
    paths = RunPaths(job.run_folder)
    record = read_record(paths)
    assert (record.status, record.processes, record.epochs) == ("complete", 2, 2)
    rows = read_rows(paths.epochs, EPOCHS).to_pylist()
    assert [row["images"] for row in rows] == [32, 16, 32, 16]
    assert [each.folder.name for each in paths.attempts()] == ["train-0"]  # rank 0's alone
