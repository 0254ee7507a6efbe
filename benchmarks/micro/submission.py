"""Handing 1,000 cells to SLURM, against one submitit `submit` a cell: `python -m benchmarks.micro.submission`.

On the tests' private cluster, its nodes drained: nothing runs while it is measured. PEERS cells are submitted one by
one and their time is scaled to CELLS. Calls of sbatch are counted by a program of that name that calls the real one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

import submitit

from mspipeline.benchmarks.micro.private_slurm import SITE, private_slurm
from mspipeline.benchmarks.micro.result import Result, main
from mspipeline.campaigns.campaign import Campaign
from mspipeline.campaigns.run_commands import run_commands
from mspipeline.campaigns.sweep import Matrix, Sweep
from mspipeline.config import TrainingSettings
from mspipeline.files import write_json

CELLS = 1000
PEERS = 50
BOUND = 5.0
COUNTING = '#!/bin/bash\necho call >> {calls}\nexec {sbatch} "$@"\n'


def measure(cells: int = CELLS, peers: int = PEERS) -> list[Result]:
    """Time and calls of sbatch until every cell is in the queue; nothing where there is no SLURM."""
    with private_slurm() as cluster, tempfile.TemporaryDirectory() as name:
        if cluster is None:
            return []
        folder = Path(name)
        calls = folder / "calls"
        _count_calls(folder / "bin", calls)
        cluster.run("scontrol", "update", "nodename=ALL", "state=drain", "reason=benchmark")
        campaign = _campaign(folder, cells)
        began = time.perf_counter()
        states = campaign.submit()
        ours_s = time.perf_counter() - began
        ours = _lines(calls)
        queued = len(cluster.run("squeue", "-h", "-r").splitlines())
        if queued != cells or any(state.state != "running" for state in states):
            raise RuntimeError(f"{queued} of {cells} cells are in the queue")
        calls.unlink()
        began = time.perf_counter()
        executor = submitit.AutoExecutor(folder / "logs", cluster="slurm")
        executor.update_parameters(slurm_partition="cpu", timeout_min=30, cpus_per_task=1, mem_gb=2)
        for number in range(peers):
            executor.submit(run_commands, [["true"]], str(folder / "peers" / str(number)))
        peer_s = (time.perf_counter() - began) * cells / peers
        scaled = _lines(calls) * cells // peers
        cluster.run("scancel", "--partition=cpu")
    detail = f"{ours_s:.1f} s and {ours} calls of sbatch against {peer_s:.1f} s and {scaled}, scaled from {peers} cells"
    return [Result(f"submitting {cells} cells", "one submitit submit a cell", peer_s / ours_s, BOUND, detail)]


def _campaign(folder: Path, cells: int) -> Campaign:
    shards = folder / "shards"
    write_json(shards / "manifest.json", dict.fromkeys(("dataset_hash", "recipe_hash", "split_hash"), "0" * 64))
    matrix = Matrix(model=("unet2d",), seed=tuple(range(cells)))
    sweep = Sweep(name="many", matrix=matrix, training=TrainingSettings(epochs=1))
    return Campaign.create(folder / "campaign", sweep, shards, SITE)


def _count_calls(folder: Path, calls: Path) -> None:
    """Put a program before sbatch that keeps a line a call."""
    folder.mkdir()
    program = folder / "sbatch"
    program.write_text(COUNTING.format(calls=calls, sbatch=shutil.which("sbatch")), encoding="utf-8")
    program.chmod(0o755)
    os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


if __name__ == "__main__":
    main(measure, __doc__)
