"""Arithmetic per second of training steps and of inference, against the machine's matrix-product peak.

`python -m benchmarks.micro.achieved_flops [--json | --table] [--backends A,B] [--models A,B]`, `--table` for Markdown.
Each network runs on each backend in a process of its own with every core; the peak is the float32 matrix product of
NumPy's BLAS, measured between them. Inference counts 2 operations a multiply-accumulate, a training step 6: forward and
the two products backward.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mspipeline.backends.base import Execution
from mspipeline.backends.certification.trial import make_trial
from mspipeline.backends.registry import BACKENDS, adapter, availability, create
from mspipeline.benchmarks.micro.result import Result, main
from mspipeline.config import Scalar
from mspipeline.models.catalogue import build
from mspipeline.network.cost import cost
from mspipeline.network.graph import Graph

SIDE = 3072
"""Of the square matrices whose product is the peak: large enough that more does not help."""
TRAINING_OPERATIONS, INFERENCE_OPERATIONS = 6, 2
SECONDS = 6.0
"""How long a step is repeated, after one that compiles; at least three times."""


@dataclass(frozen=True)
class Workload:
    """A network at the size it is measured at. shape: of an image, channels last."""

    model: str
    shape: tuple[int, ...]
    batch: int
    arguments: tuple[tuple[str, Scalar], ...] = ()

    @property
    def graph(self) -> Graph:
        return build(self.model, self.shape, dict(self.arguments))

    @property
    def size(self) -> str:
        """In words, for the table."""
        words = [f"batch {self.batch}", "x".join(map(str, self.shape)), *(f"{k} {v}" for k, v in self.arguments)]
        return ", ".join(words)


WORKLOADS = (
    Workload("unet2d", (256, 256, 1), 2),
    Workload("double_unet", (256, 256, 1), 1),
    Workload("cascade3d", (11, 11, 11, 3), 128),
    Workload("nicms", (11, 11, 11, 2), 128),
    Workload("deeplabv3", (256, 256, 1), 2),
    Workload("vnet", (32, 64, 64, 1), 1),
    Workload("nnunet3d", (64, 64, 64, 1), 1),
)


@dataclass(frozen=True)
class Achieved:
    """Operations a second, median. problem: why there are none."""

    workload: Workload
    backend: str
    training: float = math.nan
    inference: float = math.nan
    peak: float = math.nan
    problem: str = ""


def matrix_product_peak() -> float:
    """Operations a second of the float32 matrix product, the best of five."""
    random = np.random.default_rng(0)
    a, b = (random.random((SIDE, SIDE), np.float32) for _ in range(2))
    a @ b
    times = []
    for _ in range(5):
        began = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - began)
    return 2 * SIDE**3 / min(times)


def run_child(position: int, backend_name: str) -> dict[str, float]:
    """Measure one workload on one backend in this process."""
    workload = WORKLOADS[position]
    trial = make_trial(workload.graph, seed=0, batch_size=workload.batch, optimizers=("adam",))
    backend = create(backend_name)
    backend.build(trial.graph, Execution(device="cpu", threads=len(os.sched_getaffinity(0))))
    backend.set_weights(trial.weights)
    backend.compile(trial.loss, trial.optimizers[0])
    operations = cost(trial.graph).macs * workload.batch
    return {
        "inference": INFERENCE_OPERATIONS * operations / _seconds(lambda: backend.predict(trial.images)),
        "training": TRAINING_OPERATIONS * operations / _seconds(lambda: backend.train_step(trial.images, trial.masks)),
    }


def _seconds(work: Callable[[], object]) -> float:
    """Median time of `work` after one call that compiles."""
    work()
    times: list[float] = []
    while len(times) < 3 or sum(times) < SECONDS:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
        if sum(times) > 10 * SECONDS:
            break
    return statistics.median(times)


def measure(models: frozenset[str] | None = None, backends: frozenset[str] | None = None) -> list[Achieved]:
    """Every workload on every backend that trains; what cannot be is a row that says why."""
    found = []
    for position, workload in enumerate(WORKLOADS):
        if models and workload.model not in models:
            continue
        for name in BACKENDS:
            if backends and name not in backends:
                continue
            found.append(_measure_one(position, workload, name))
            print(f"{workload.model} on {name}: {found[-1].problem or 'measured'}", file=sys.stderr)
    return found


def _measure_one(position: int, workload: Workload, name: str) -> Achieved:
    if problem := availability(name).problem:
        return Achieved(workload, name, problem=problem)
    if nodes := adapter(name).unsupported(workload.graph):
        return Achieved(workload, name, problem=f"cannot: {nodes[0]}")
    before = matrix_product_peak()
    line = [sys.executable, "-m", "mspipeline.benchmarks.micro.achieved_flops", "--child", str(position), name]
    child = subprocess.run(line, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2], check=False)
    peak = statistics.mean((before, matrix_product_peak()))
    if child.returncode:
        return Achieved(workload, name, problem=child.stderr.strip().splitlines()[-1])
    return Achieved(workload, name, peak=peak, **json.loads(child.stdout.splitlines()[-1]))


def results(rows: list[Achieved]) -> list[Result]:
    """As every micro benchmark: a ratio to the peak. No bound but for the full U-Net on TensorFlow, which was seen."""
    found = []
    for row in rows:
        if row.problem:
            continue
        for what in ("training", "inference"):
            seen = row.workload.model == "unet2d" and row.backend == "tensorflow"
            bound = {"training": 0.6, "inference": 0.75}[what] if seen else 0.0
            value: float = getattr(row, what)
            detail = f"{value / 1e9:.0f} of {row.peak / 1e9:.0f} GFLOP/s; {row.workload.size}"
            name = f"{row.workload.model} on {row.backend}, {what}"
            found.append(Result(name, "matrix-product peak", value / row.peak, bound, detail))
    return found


def table(rows: list[Achieved]) -> str:
    """Markdown for docs/performance.md."""
    lines = ["| network | size | backend | training | inference |", "|---|---|---|---|---|"]
    for row in rows:
        cells = [row.problem, ""] if row.problem else [_cell(row.training, row.peak), _cell(row.inference, row.peak)]
        lines.append(" | ".join(["| " + row.workload.model, row.workload.size, row.backend, *cells]) + " |")
    return "\n".join(lines)


def _cell(value: float, peak: float) -> str:
    return f"{value / 1e9:.0f} GFLOP/s, {value / peak:.2f}"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split(","))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--child", nargs=2)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--models", type=_words)
    parser.add_argument("--backends", type=_words)
    options, others = parser.parse_known_args()
    if options.child:
        print(json.dumps(run_child(int(options.child[0]), options.child[1])))
    elif options.table:
        print(table(measure(options.models, options.backends)))
    else:
        main(lambda: results(measure(options.models, options.backends)), str(__doc__), others)
