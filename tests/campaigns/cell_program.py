"""Stands in for `python -m mspipeline.jobs supervise`: it trains nothing, but writes the same files in the same order.

cell_program.py train|evaluate CONFIG [--epoch-seconds S] [--fail-seed N] [--absent-seed N] [--deaf] [--die-after E]
[--eat-mib M]

It appends to CELL/starts.txt at each start and to CELL/epochs.txt at each epoch, keeps a child process while it works,
and writes CELL/two-at-once where it finds itself running beside another.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil

from mspipeline.config import EvaluateJob, TrainJob, read_config
from mspipeline.errors import SuiteError
from mspipeline.files import read_json, write_json
from mspipeline.runs import RunPaths, RunRecord, write_record, write_rows
from mspipeline.tables.schema import CASES, EPOCHS

stopped_by: list[int] = []


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("job")
    parser.add_argument("config", type=Path)
    parser.add_argument("--epoch-seconds", type=float, default=0.0)
    parser.add_argument("--fail-seed", type=int)
    parser.add_argument("--absent-seed", type=int)
    parser.add_argument("--deaf", action="store_true")
    parser.add_argument("--die-after", type=int, help="be killed after this epoch; 0: before the first")
    parser.add_argument("--eat-mib", type=int, default=0)
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, lambda received, _: None if options.deaf else stopped_by.append(received))
    if options.job == "evaluate":
        return evaluate(read_config(options.config, EvaluateJob))
    job = read_config(options.config, TrainJob)
    if job.seed == options.fail_seed:
        print("a line before")
        print("error: sub-01: the truth is not binary", flush=True)
        return 65
    if job.seed == options.absent_seed:
        problem = {"problem": "backend x needs y, not installed here"}
        write_record(RunPaths(job.run_folder), record(job, "failed").model_copy(update=problem))
        return 69
    return train(job, options)


def train(job: TrainJob, options: argparse.Namespace) -> int:
    root = job.run_folder
    alone = root / "alive"
    if alone.exists() and _lives(int(alone.read_text())):
        (root / "two-at-once").touch()
    alone.write_text(str(os.getpid()))
    append(root / "starts.txt", "train")
    paths = RunPaths(root)
    if paths.record.exists() and read_json(paths.record, what="", remedy="")["status"] == "complete":
        return 0
    checkpoint = paths.last
    rows = read_json(checkpoint, what="", remedy="") if checkpoint.exists() else []
    write_record(paths, record(job, "running"))
    if options.eat_mib:
        print("eating", flush=True)
        eaten = bytearray(options.eat_mib * 2**20)
        time.sleep(20)
        return len(eaten) % 2
    if options.die_after == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    helper = subprocess.Popen(["sleep", "600"])
    try:
        for epoch in range(len(rows) // 2 + 1, job.training.epochs + 1):
            ends = time.monotonic() + options.epoch_seconds
            while time.monotonic() < ends and not stopped_by:
                time.sleep(0.01)
            if stopped_by:
                write_record(paths, record(job, "interrupted"))
                append(root / "stopped.txt", str(stopped_by))
                return 75
            rows += [row(job, epoch, "train", epoch / 8), row(job, epoch, "validation", epoch / 16)]
            write_rows(paths.epochs, rows, EPOCHS)
            write_json(checkpoint, rows)
            append(root / "epochs.txt", str(epoch))
            if epoch == options.die_after:
                os.kill(os.getpid(), signal.SIGKILL)
    finally:
        helper.kill()
        helper.wait()
    write_record(paths, record(job, "complete"))
    alone.unlink()
    return 0


def evaluate(job: EvaluateJob) -> int:
    append(job.run_folder / "starts.txt", "evaluate")
    write_rows(RunPaths(job.run_folder).cases, [], CASES)
    return 0


def _lives(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def append(path: Path, line: str) -> None:
    with path.open("a") as stream:
        stream.write(line + "\n")


def row(job: TrainJob, epoch: int, subset: str, dice: float) -> dict[str, object]:
    values = {"epoch": epoch, "subset": subset, "dice": dice, "seconds": 2.0, "images_per_second": 25.0}
    values["run_id"] = job.cell
    return {name: values.get(name) for name in EPOCHS.names}


def record(job: TrainJob, status: str) -> RunRecord:
    return RunRecord.model_validate(
        {
            **dict.fromkeys(("graph_hash", "dataset_hash", "split_hash", "recipe_hash", "config_hash"), "0"),
            **dict.fromkeys(("threads", "trainable_parameters", "non_trainable_parameters", "macs"), 1),
            "run_id": job.cell,
            "status": status,
            "model": job.model.name,
            "model_arguments": job.model.arguments,
            "backend": job.backend,
            "backend_version": "0",
            "device": "cpu",
            "seed": job.seed,
            "started_utc": datetime.now(UTC).isoformat(),
            "monitor": "train_loss",
            "threshold": 0.5,
            "recipe": {},
            "provenance": {},
        }
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SuiteError as error:
        print(f"error: {error}", flush=True)
        sys.exit(error.exit_code)
