"""`prepare` on MPI ranks: two against one, more ranks than cores, and, simulated, thousands.

Run as `python -m benchmarks.micro.prepare_scaling [--json]`; needs mpi4py and the `mpirun` beside this Python.

Two ranks, each on a core of its own, against one rank on one core, the same threads each: whole commands by the clock,
start-up included. Then three cases a rank on 1, 2, 4 and 8 ranks, none bound, against what as many ranks as there are
cores do in a second. The simulation runs nothing: it hands the measured seconds of the cases, drawn 10,000 times, to
the scheduler of `shards.deal`, and knows nothing of file systems; that rank 0 hands a task out is taken to last as long
as pickling it and its result.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mspipeline.benchmarks.micro.result import Result, main
from mspipeline.datasets.phantom import make_phantom
from mspipeline.jobs.work.prepare_case import ShardResult, ShardTask, make
from mspipeline.parallel.deal import simulate, skew
from mspipeline.parallel.ranks import Done
from mspipeline.recipes.catalogue import load_recipe
from mspipeline.shards.manifest import load_manifest
from mspipeline.shards.writer import Source

PROGRAM = Path(sys.executable).with_name("mspipeline")
MPIRUN = Path(sys.executable).with_name("mpirun")
SHAPES = ((182, 218, 182), (182, 218, 182), (128, 160, 128), (96, 112, 96))
COPIES = 6
REPEATS = 3
WEAK_RANKS = (1, 2, 4, 8)
WEAK_CASES = 3
WEAK_SIZE = "size=[128,128,128]"
SIMULATED_CASES = 10_000
SIMULATED_RANKS = (64, 512, 4096)


@dataclass(frozen=True)
class Run:
    """One prepare. seconds: of the whole command. times: its prepare.json."""

    seconds: float
    times: dict[str, Any]

    @property
    def bytes(self) -> int:
        """Of all shards."""
        return sum(rank["bytes"] for rank in self.times["ranks"])


def measure() -> list[Result]:
    """All three; each way of starting takes turns with the others."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = _dataset(folder / "dataset", SHAPES, COPIES)
        strong, costs = _two_against_one(dataset, folder / "shards")
        handing_s = _handing_seconds(dataset, folder / "shards")
        return [strong, *_oversubscribed(folder), *_simulated(costs, handing_s)]


def _two_against_one(dataset: Path, output: Path) -> tuple[Result, list[float]]:
    """The ratio, and the seconds of each case on one core."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    runs: dict[int, list[Run]] = {1: [], 2: []}
    for _ in range(REPEATS):
        for ranks, done in runs.items():
            done.append(_prepare(dataset, output, cores[:ranks]))
    one, two = (statistics.median(run.seconds for run in done) for done in runs.values())
    within = [statistics.median(run.times["wall_seconds"] for run in done) for done in runs.values()]
    result = Result(
        name="prepare on 2 ranks, a core each",
        peer="1 rank on one core",
        ratio=one / two,
        bound=1.8,
        detail=(
            f"{len(SHAPES) * COPIES} cases, {runs[1][0].bytes / 1e6:.0f} MB: {one:.1f} s and {two:.1f} s, "
            f"without start-up {within[0]:.1f} s and {within[1]:.1f} s, skew {runs[2][-1].times['skew']:.2f}, "
            f"medians of {REPEATS}"
        ),
    )
    return result, [case["seconds"] for case in runs[1][-1].times["cases"]]


def _oversubscribed(folder: Path) -> list[Result]:
    cores = len(os.sched_getaffinity(0))
    runs = {}
    for ranks in WEAK_RANKS:
        dataset = _dataset(folder / f"weak-{ranks}", SHAPES[-1:], WEAK_CASES * ranks)
        runs[ranks] = _prepare(dataset, folder / f"weak-shards-{ranks}", [None] * ranks, "--set", WEAK_SIZE)
    speed = {ranks: WEAK_CASES * ranks / run.times["wall_seconds"] for ranks, run in runs.items()}
    full = min((ranks for ranks in WEAK_RANKS if ranks >= cores), default=WEAK_RANKS[-1])
    return [
        Result(
            name=f"weak scaling, {ranks} ranks on {cores} cores, {WEAK_CASES} cases each",
            peer=f"{full} ranks' cases a second",
            ratio=speed[ranks] / speed[full],
            bound=0.8 if ranks >= full else 0.8 * ranks / full,
            detail=f"{run.times['wall_seconds']:.2f} s, {run.bytes / 1e6:.1f} MB, skew {run.times['skew']:.2f}",
        )
        for ranks, run in runs.items()
    ]


def _simulated(costs: Sequence[float], handing_s: float) -> list[Result]:
    drawn = random.Random(0).choices(costs, k=SIMULATED_CASES)
    results = []
    for ranks in SIMULATED_RANKS:
        run = simulate(drawn, drawn, ranks, handing_s=handing_s)
        ideal = max(math.fsum(drawn) / ranks, *drawn)
        results.append(
            Result(
                name=f"simulated: {SIMULATED_CASES} cases on {ranks} ranks",
                peer="even work without handing out",
                ratio=ideal / run.wall_s,
                bound=0.6 if ranks == SIMULATED_RANKS[-1] else 0.9,
                detail=(
                    f"{run.wall_s:.1f} s, ideal {ideal:.1f} s, skew {skew(run.busy_s):.2f}, cases of "
                    f"{min(costs):.2f} to {max(costs):.2f} s as measured on one core, "
                    f"{handing_s * 1e6:.0f} us to hand one out"
                ),
            )
        )
    return results


def _prepare(dataset: Path, output: Path, cores: Sequence[int | None], *words: str) -> Run:
    """Prepare into a new folder, a rank for each core; None leaves a rank unbound."""
    shutil.rmtree(output, ignore_errors=True)
    command: list[str] = [str(MPIRUN)]
    for core in cores:
        bound = [] if core is None else ["taskset", "-c", str(core)]
        command += [*([":"] if len(command) > 1 else []), "-n", "1", *bound]
        command += [str(PROGRAM), "prepare", str(dataset), "-o", str(output), *words]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return Run(time.perf_counter() - start, json.loads((output / "prepare.json").read_text()))


def _handing_seconds(dataset: Path, output: Path) -> float:
    """What rank 0 does for one task besides MPI: pickle the task, unpickle the result."""
    recipe = load_recipe("slices2d")
    case = recipe.find(dataset, masks="required").cases[0]
    sources = {name: Source(path.name, "0" * 64) for name, path in recipe.files(case).items()}
    order = (make, 0, ShardTask(output, recipe, case, sources, None), case.id)
    result = pickle.dumps((0, Done(0, ShardResult(load_manifest(output).cases[0], False), 0, 1.0)))
    repeats = 1000
    start = time.perf_counter()
    for _ in range(repeats):
        pickle.dumps(order)
        pickle.loads(result)
    return (time.perf_counter() - start) / repeats


def _dataset(folder: Path, shapes: Sequence[tuple[int, int, int]], copies: int) -> Path:
    """A BIDS dataset of `copies` cases of each shape: one phantom each, linked under other names."""
    number = 0
    for shape in shapes:
        phantom = folder.with_name(f"{folder.name}-{number}")
        make_phantom(phantom, cases=1, shape=shape, spacing_mm=(1.0, 1.0, 1.0))
        for _ in range(copies):
            number += 1
            for path in phantom.rglob("*.nii.gz"):
                target = folder / str(path.relative_to(phantom)).replace("sub-01", f"sub-{number:03d}")
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(path, target)
    return folder


if __name__ == "__main__":
    main(measure, __doc__.splitlines()[0])
