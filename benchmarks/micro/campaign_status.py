"""A campaign of 10,000 cells seen by a new process: `python -m benchmarks.micro.campaign_status`.

The files of the cells are those of a real campaign, made by the suite's own writers: most cells done, some failed,
stopped or not begun. The peer reads the same bytes with os.read and does nothing with them. The bounds are limits in
seconds and bytes, put as ratios to the peer and to a bare interpreter's memory.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mspipeline.benchmarks.micro.result import Result, main
from mspipeline.campaigns.attempt import AttemptRecord, record_path
from mspipeline.campaigns.campaign import Campaign
from mspipeline.campaigns.cells import Cell
from mspipeline.campaigns.follow import Follower
from mspipeline.campaigns.site_file import load_site
from mspipeline.campaigns.submission import Submission, submission_path
from mspipeline.campaigns.sweep import Matrix, Sweep
from mspipeline.config import TrainingSettings
from mspipeline.files import write_json
from mspipeline.parallel.lock import hold
from mspipeline.runs import RunPaths, write_rows
from mspipeline.tables.schema import CASES, EPOCHS

SEEDS = 1250
MODELS = ("unet2d", "double_unet")
BACKENDS = ("tensorflow", "torch", "jax", "pyeddl")
EPOCHS_A_CELL = 10
LIMIT_S = 20.0
AGAIN_LIMIT_S = 8.0
LIMIT_BYTES = 400 * 2**20
MEMORY_DISK = Path("/dev/shm")  # where a file that is synced is no disk's business: what is measured is reading
AN_HOUR_S = 3600
CELL_FILES = ("submission.json", "cell.json", "run.json", "cases.arrow", "epochs.arrow")


def make_campaign(folder: Path, seeds: int = SEEDS) -> Campaign:
    """A campaign of 8 * `seeds` cells: of 20, one has not begun, one failed, one was stopped, the others are done."""
    shards = folder / "shards"
    write_json(shards / "manifest.json", dict.fromkeys(("dataset_hash", "recipe_hash", "split_hash"), "0" * 64))
    matrix = Matrix(model=MODELS, backend=BACKENDS, seed=tuple(range(seeds)))
    sweep = Sweep(name="large", matrix=matrix, training=TrainingSettings(epochs=EPOCHS_A_CELL))
    campaign = Campaign.create(folder / "campaign", sweep, shards, load_site("local"))
    for number, cell in enumerate(campaign.cells):
        _write_cell(campaign.folder, cell, number)
    return campaign


def read_all(campaign: Path) -> None:
    """Read the bytes of every file that tells a cell's state."""
    for cell in (campaign / "cells").iterdir():
        for name in CELL_FILES:
            try:
                descriptor = os.open(cell / name, os.O_RDONLY)
            except FileNotFoundError:
                continue
            while os.read(descriptor, 1 << 20):
                pass
            os.close(descriptor)


def status(campaign: Path) -> None:
    """What `mspipeline status` finds out."""
    Campaign.open(campaign).state()


def resume(campaign: Path) -> None:
    """What `mspipeline resume` finds out before it hands anything over."""
    opened = Campaign.open(campaign)
    with hold(campaign / "lock"):
        Follower(campaign, opened.record.site, opened.scheduler, opened.cells, lambda _: [], None, poll_s=1, grace_s=1)


def nothing(campaign: Path) -> None:
    """What the interpreter and the suite's modules take without a campaign."""


def measured(work: Callable[[Path], None], campaign: Path) -> tuple[float, int]:
    """Seconds and peak resident bytes of `work` in a process of its own."""
    context = multiprocessing.get_context("spawn")
    answers, answer = context.Pipe(duplex=False)
    child = context.Process(target=_measure_here, args=(work, campaign, answer))
    child.start()
    answer.close()
    try:
        seconds, peak = answers.recv()
    except EOFError:
        raise RuntimeError(f"{work.__name__}: the measured process ended without an answer") from None
    finally:
        child.join()
    return seconds, peak


def measure(seeds: int = SEEDS) -> list[Result]:
    """`status` that reads every cell, `status` and `resume` after it; each against reading the same files."""
    disk = MEMORY_DISK if os.access(MEMORY_DISK, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=disk) as folder:
        made = make_campaign(Path(folder), seeds)
        cells, campaign = len(made.cells), made.folder
        measured(read_all, campaign)  # once before: every measured reading finds the files in memory
        read_s, _ = measured(read_all, campaign)
        _, bare = measured(nothing, campaign)
        first, again, resumed = (measured(work, campaign) for work in (status, status, resume))
    scale = cells / (8 * SEEDS)
    rows = [("status", first, LIMIT_S), ("status again", again, AGAIN_LIMIT_S), ("resume", resumed, AGAIN_LIMIT_S)]
    results = [
        Result(
            f"{name} of {cells} cells",
            "reading their files",
            read_s / seconds,
            read_s / (limit_s * scale),
            f"{seconds:.2f} s against {read_s:.2f} s, limit {limit_s * scale:g} s",
        )
        for name, (seconds, _), limit_s in rows
    ]
    for name, (_, peak), _ in rows:
        detail = f"peak RSS {peak / 2**20:.0f} MiB against {bare / 2**20:.0f} MiB, limit {LIMIT_BYTES / 2**20:.0f} MiB"
        results.append(
            Result(f"memory of {name} of {cells} cells", "the modules alone", bare / peak, bare / LIMIT_BYTES, detail)
        )
    return results


def _write_cell(campaign: Path, cell: Cell, number: int) -> None:
    """The files of one cell, its folder of an hour ago."""
    if number % 20 == 19:
        return
    paths = RunPaths(cell.train.run_folder)
    log = campaign / "logs" / cell.id / "0" / f"{number}_0_log.out"
    log.parent.mkdir(parents=True)
    log.write_text("epoch 1\n", encoding="utf-8")
    code = {17: 65, 18: 75}.get(number % 20, 0)
    job: dict[str, Any] = {
        "job_id": str(number),
        "host": socket.gethostname(),
        "pid": 1,
        "pid_created": 1.0,
        "log": log,
    }
    when = "2026-01-01T00:00:00+00:00"
    submission = Submission(executor="local", logs=log.parent, submitted_utc=when, **job)
    attempt = AttemptRecord(attempt=0, step=1, started_utc=when, ended_utc=when, exit_code=code, **job)
    write_json(submission_path(paths.root), submission.model_dump(mode="json"))
    write_json(record_path(paths.root), attempt.model_dump(mode="json"))
    unknown = dict.fromkeys(EPOCHS.names)
    rows = [
        {**unknown, "epoch": epoch, "subset": subset, "seconds": 2.0, "dice": epoch / 16}
        for epoch in range(1, EPOCHS_A_CELL + 1)
        for subset in ("train", "validation")
    ]
    write_rows(paths.epochs, rows if code == 0 else rows[:6], EPOCHS)
    # As much as a real one holds; its provenance is the most of it.
    provenance = {f"package {each}": "1.2.3" for each in range(60)}
    write_json(paths.record, {"status": "complete" if code == 0 else "interrupted", "provenance": provenance})
    if code == 0:
        write_rows(paths.cases, [], CASES)
    then = time.time() - AN_HOUR_S
    os.utime(paths.root, (then, then))


def _measure_here(work: Callable[[Path], None], campaign: Path, answer: multiprocessing.connection.Connection) -> None:
    began = time.perf_counter()
    work(campaign)
    seconds = time.perf_counter() - began
    peak = int(Path("/proc/self/status").read_text(encoding="ascii").split("VmHWM:")[1].split()[0]) * 1024
    answer.send((seconds, peak))
    answer.close()


if __name__ == "__main__":
    main(measure, __doc__)
