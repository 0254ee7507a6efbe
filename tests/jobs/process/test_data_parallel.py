"""Trainings of two processes, started here: their curve is that of one, and they stop, resume and fail together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from mspipeline.backends.process_group import ProcessGroup
from mspipeline.backends.registry import availability
from mspipeline.config import ModelSettings, TrainingSettings, TrainJob
from mspipeline.errors import BackendError, ConfigError, Preempted
from mspipeline.jobs.process.data_parallel import first_host, place, require_address
from mspipeline.jobs.work.train import graph_of
from mspipeline.labels import LESIONS
from mspipeline.recipes.catalogue import recipe_of
from mspipeline.runs import RunPaths, config_hash, read_record, read_rows
from mspipeline.shards.manifest import load_manifest
from mspipeline.tables.schema import EPOCHS
from mspipeline.training.checkpoint import read_checkpoint

CURVE = ["epoch", "subset", "steps_total", "images", "loss", "dice_slice_soft_smooth1"]
STEP = {"SLURM_JOB_ID": "71", "SLURM_STEP_ID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NODELIST": "gpu[07-08]"}


@pytest.mark.parametrize(
    ("environ", "group"),
    [
        ({**STEP, "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}, ProcessGroup(3, 4, "gpu07:26273", 1)),
        ({**STEP, "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "CUDA_VISIBLE_DEVICES": "5"}, (1, "gpu07:26273", 0)),
        ({**STEP, "SLURM_STEP_NUM_NODES": "1", "MASTER_PORT": "999"}, (0, "127.0.0.1:999", 0)),
        ({**STEP, "SLURM_STEP_NUM_NODES": "2"}, (0, "gpu07:15273", 0)),
        ({**STEP, "MASTER_ADDR": "ib0", "MASTER_PORT": "999"}, (0, "ib0:999", 0)),
        ({"RANK": "2", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "9", "LOCAL_RANK": "0"}, (2, "a:9", 0)),
        ({"SLURM_JOB_ID": "71", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, None),  # a batch script: nobody started them
        ({}, None),
    ],
)
def test_a_process_finds_its_place(environ: dict[str, str], group: Any) -> None:
    found = place(4, environ)
    if isinstance(group, tuple):
        rank, address, gpu = group
        group = ProcessGroup(rank, 4, address, gpu)
    if group is not None and group.address.startswith("gpu07"):
        group = ProcessGroup(group.rank, 4, f"gpu07:{15_000 + 71 + 2 * 101}", group.gpu)
    assert found == group


def test_a_meeting_place_that_this_machine_does_not_know_is_answered_with_what_to_set() -> None:
    require_address(ProcessGroup(0, 2, "127.0.0.1:999"))
    require_address(ProcessGroup())
    with pytest.raises(ConfigError, match=r"'no-such-node\.invalid'.* does not know .*; set MASTER_ADDR to an address"):
        require_address(ProcessGroup(1, 2, "no-such-node.invalid:999"))


def test_one_process_is_alone_wherever_it_runs() -> None:
    assert place(1, STEP) == ProcessGroup()


@pytest.mark.parametrize(
    ("environ", "words"), [(STEP, "SLURM started 4 tasks; use `srun --ntasks=2`"), ({"WORLD_SIZE": "3"}, "WORLD_SIZE")]
)
def test_another_number_of_processes_is_answered(environ: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        place(2, environ)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n[07-09,12],m1", "n07"), ("r[0-1]n[3,5-6]-ib,x", "r0n3-ib"), ("a,b[1-2]", "a"), ("", "")],
)
def test_the_first_host_of_a_node_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_bad_numbers_of_processes_are_answered_before_anything_runs(train_job: TrainJob) -> None:
    recipe = recipe_of(load_manifest(train_job.shards).recipe, where="manifest")
    three = train_job.model_copy(update={"processes": 3})  # of batches of 5
    with pytest.raises(ConfigError, match="batch_size 5 cannot be shared out evenly to 3 processes"):
        graph_of(three, recipe, LESIONS)
    with pytest.raises(BackendError, match="pyeddl trains in one process, not 3; choose one of tensorflow, torch, jax"):
        graph_of(three.model_copy(update={"backend": "pyeddl"}), recipe, LESIONS)


def test_the_number_of_processes_is_part_of_a_runs_configuration(train_job: TrainJob) -> None:
    manifest = load_manifest(train_job.shards)
    hashes = {config_hash(train_job.model_copy(update={"processes": n}), manifest) for n in (1, 2, 4)}
    assert len(hashes) == 3


def job_of(shards: Path, folder: Path, processes: int, *, epochs: int, backend: str = "torch") -> TrainJob:
    if problem := availability(backend).problem:
        pytest.skip(problem)
    return TrainJob(
        model=ModelSettings(name="unet2d", arguments={"base_width": 2}),
        backend=backend,
        shards=shards,
        run_folder=folder / f"run{processes}",
        threads=1,
        processes=processes,
        training=TrainingSettings(
            epochs=epochs,
            batch_size=6,
            learning_rate=1e-4,
            loss="dice",
            recipe={"transforms": [{"name": "flip"}, {"name": "rotate90"}, {"name": "gaussian_noise"}]},
        ),
    )


def start(job: TrainJob) -> subprocess.Popen[str]:
    config = RunPaths(job.run_folder).job_config("train")
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(json.dumps(job.model_dump(mode="json")))
    command = [sys.executable, "-m", "mspipeline.jobs", "supervise", "train", str(config), "--progress", "off"]
    environ = {**os.environ, "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ)


def finish(job: TrainJob) -> list[dict[str, Any]]:
    _, errors = start(job).communicate(timeout=400)
    assert read_record(RunPaths(job.run_folder)).status == "complete", errors
    return curve(job)


def curve(job: TrainJob) -> list[dict[str, Any]]:
    return read_rows(RunPaths(job.run_folder).epochs, EPOCHS).select(CURVE).to_pylist()


def wait_for_epochs(job: TrainJob, number: int) -> None:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        if RunPaths(job.run_folder).epochs.exists() and len(curve(job)) >= 2 * number:
            return
        time.sleep(0.1)
    raise AssertionError("no epoch was finished")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "backend", ["torch", *(pytest.param(name, marks=pytest.mark.long) for name in ("tensorflow", "jax"))]
)
def test_the_curve_of_two_processes_is_that_of_one(small_shards: Path, tmp_path: Path, backend: str) -> None:
    alone, both = (finish(job_of(small_shards, tmp_path, n, epochs=2, backend=backend)) for n in (1, 2))
    assert [row["images"] for row in both] == [32, 16, 32, 16]
    for one, two in zip(alone, both, strict=True):
        assert [two.pop(name) for name in CURVE[:2]] == [one.pop(name) for name in CURVE[:2]]
        assert two == pytest.approx(one, rel=2e-3)
    record = read_record(RunPaths(tmp_path / "run2"))
    assert record.processes == 2
    assert [paths.folder.name for paths in RunPaths(tmp_path / "run2").attempts()] == ["train-0"]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_processes_stop_together_and_go_on_exactly(small_shards: Path, tmp_path: Path) -> None:
    whole = job_of(small_shards, tmp_path, 2, epochs=12)
    job = whole.model_copy(update={"run_folder": tmp_path / "stopped"})
    process = start(job)
    wait_for_epochs(job, 1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == Preempted.exit_code, errors
    assert errors.count("error: stopped by SIGTERM, state saved") == 1
    assert read_record(RunPaths(job.run_folder)).status == "interrupted"
    assert len(curve(job)) < 24
    assert finish(job) == finish(whole)
    states = [read_checkpoint(RunPaths(each.run_folder).last) for each in (job, whole)]
    assert all((states[0].weights[key] == states[1].weights[key]).all() for key in states[1].weights)
    assert all((states[0].state[key] == states[1].state[key]).all() for key in states[1].state)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_process_that_is_killed_ends_the_others_with_one_line(small_shards: Path, tmp_path: Path) -> None:
    job = job_of(small_shards, tmp_path, 2, epochs=500)
    process = start(job)
    wait_for_epochs(job, 1)
    ranks = [each for each in psutil.Process(process.pid).children(recursive=True) if each.environ().get("RANK") == "1"]
    assert len(ranks) == 1
    ranks[0].kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGKILL
    assert [line for line in errors.splitlines() if not line.startswith("epoch ")] == [
        "error: train: process 1 of 2 was ended by SIGKILL; most often memory ran out; run the same command again to "
        "continue"
    ]
