"""What an interruption costs a training on SLURM: steps done again, seconds until it goes on.

`python -m benchmarks.micro.preemption_loss`, on the tests' private cluster. Ratios are the share of the training so far
that an interruption leaves; where SLURM warns, all of it is kept, and a kill may cost the period of the checkpoints.
Of the seconds, SLURM's own wait before a requeued job starts again (its AuthInfo cred_expire, 10 s here) is told apart.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from mspipeline.benchmarks.micro.result import Result, main
from mspipeline.config import PrepareJob
from mspipeline.datasets.phantom import make_phantom
from mspipeline.jobs.work.prepare import prepare
from mspipeline.runs import RunPaths, read_rows
from mspipeline.tables.schema import EPOCHS
from mspipeline.telemetry.schema import EVENTS
from mspipeline.telemetry.shard import read_stream

SHAPE = (32, 32, 16)
CHECKPOINT_EVERY_S = 2.0
STEP_S = 1.0
"""So long a step may take on a busy machine: a checkpoint that is due waits for its end."""


def measure() -> list[Result]:
    """One training, interrupted once in every way; nothing where SLURM is not installed, which is said."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    interrupted, cluster_of_tests = import_module("tests.slurm.interrupted"), import_module("tests.slurm.cluster")
    if missing := cluster_of_tests.missing_packages():
        print(f"no SLURM here; apt-get install -y --no-install-recommends {' '.join(missing)}", file=sys.stderr)
        return []
    ways: list[tuple[str, Callable[[Any], None], bool]] = [
        ("preemption", interrupted.preempt, True),
        ("external requeue", interrupted.requeue, True),
        ("warned of the time limit", interrupted.warn, True),
        ("SIGKILL", interrupted.kill, False),
        ("dead node", interrupted.cut_the_power, False),
    ]
    with tempfile.TemporaryDirectory() as name, cluster_of_tests.start_cluster() as cluster:
        folder = Path(name)
        make_phantom(folder / "data", cases=4, seed=0, shape=SHAPE)
        prepare(PrepareJob(dataset=folder / "data", output=folder / "shards"), recipe_overrides={"size": SHAPE})
        with pytest.MonkeyPatch.context() as patch:
            for key, value in cluster.environment.items():
                patch.setenv(key, value)
            training = interrupted.Training(
                cluster, folder / "shards", folder, epochs=100_000, checkpoint_every_s=CHECKPOINT_EVERY_S
            )
            results = [_interrupted(training, *way) for way in ways]
            training.cancel()
    return results


def _interrupted(training: Any, name: str, stop: Callable[[Any], None], warned: bool) -> Result:
    """One interruption of a training that has gone on for a while."""
    paths = RunPaths(training.folder)
    training.has_trained_on()
    went_on = _goes_on(training)
    time.sleep(CHECKPOINT_EVERY_S + STEP_S)
    attempt = training.attempt
    done_s, rate = time.time() - went_on, _steps_a_second(paths)
    began = time.time()
    stop(training)
    while training.attempt == attempt:
        time.sleep(0.02)
    kept_until = paths.last.stat().st_mtime
    started = datetime.fromisoformat(training.record().started_utc).timestamp()
    training.has_trained_on()
    lost_s = max(0.0, began - kept_until)
    detail = (
        f"{lost_s * rate:.0f} steps done again, {lost_s:.2f} s; goes on after {_goes_on(training) - began:.1f} s, "
        f"of which {started - began:.1f} s until SLURM has started it"
    )
    bound = 1.0 if warned else 1 - (CHECKPOINT_EVERY_S + STEP_S) / done_s
    return Result(f"{name}: work kept", "an attempt's work so far", 1 - lost_s / done_s, max(0.0, bound), detail)


def _goes_on(training: Any) -> float:
    """When the latest attempt began to train, in seconds since 1970."""
    (*_, latest) = RunPaths(training.folder).attempts("train")
    events = read_stream(latest.events, EVENTS)
    began = events.filter(pc.equal(events["phase"].cast("string"), "train"))["time_utc"][0].value
    return float(began) / 1e9


def _steps_a_second(paths: RunPaths) -> float:
    rows = read_rows(paths.epochs, EPOCHS)
    train = rows.filter(pc.equal(rows["subset"].cast("string"), "train"))
    return float(train["steps_total"][-1].as_py()) / float(pc.sum(train["seconds"]).as_py())


if __name__ == "__main__":
    main(measure, __doc__)
