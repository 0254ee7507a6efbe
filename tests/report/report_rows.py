"""Rows of hand-made tables, and a campaign of them as a person would see it."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mspipeline.tables import schema

START = datetime.datetime(2026, 3, 1, 8, 0, tzinfo=datetime.UTC)
Rows = Sequence[dict[str, Any]]


def run_row(run_id: str, **changes: Any) -> dict[str, Any]:
    """A complete run of one seed."""
    row: dict[str, Any] = {
        "run_id": run_id,
        "campaign": "demo",
        "cell": run_id,
        "status": "complete",
        "model": "unet2d",
        "model_arguments": '{"base_width": 8}',
        "backend": "tensorflow",
        "backend_version": "2.21.0",
        "device": "cpu",
        "seed": 0,
        "started_utc": START,
        "ended_utc": START + datetime.timedelta(minutes=5),
        "restart_count": 0,
        "epochs": 12,
        "best_epoch": 10,
        "monitor": "validation_loss",
        "trainable_parameters": 1_941_105,
        "non_trainable_parameters": 2_944,
        "macs": 3_000_000_000,
        "train_epoch_seconds": 20.0,
        "evaluate_seconds": 4.0,
        "peak_rss_bytes": 2_500_000_000,
        "graph_hash": "a1" * 32,
        "dataset_hash": "d5" * 32,
        "split_hash": "59" * 32,
        "recipe_hash": "4e" * 32,
        "config_hash": "c0" * 32,
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "image_digest": None,
        "host": "node01",
        "cpu_model": "AMD EPYC 9454",
        "cpus_allocated": 16,
        "threads": 16,
        "memory_bytes": 64_000_000_000,
        "gpu_name": None,
        "gpu_driver": None,
        "versions": '{"keras": "3.15.1", "numpy": "2.4.6", "tensorflow": "2.21.0"}',
    }
    return row | changes


def epoch_row(run_id: str, epoch: int, subset: str, **changes: Any) -> dict[str, Any]:
    """One epoch of 100 images in 20 s."""
    row = {"run_id": run_id, "restart_count": 0, "epoch": epoch, "subset": subset, "images": 100, "seconds": 20.0}
    return row | changes


def case_row(run_id: str, case: str, subset: str, **changes: Any) -> dict[str, Any]:
    """A scored case."""
    row = {"run_id": run_id, "case": case, "label": "lesion", "subset": subset, "checkpoint": "best", "grid": "scan"}
    scores = {"threshold": 0.5, "dice": 0.8, "iou": 2 / 3, "precision": 0.9, "recall": 0.72, "specificity": 0.9991}
    volumes = {"volume_error_percent": -12.5, "truth_ml": 10.4, "prediction_ml": 9.1}
    return row | scores | volumes | changes


def sample_row(run_id: str, second: float, phase: str | None = None, **changes: Any) -> dict[str, Any]:
    """One sample of a process tree."""
    row = {
        "run_id": run_id,
        "host": "node01",
        "rank": 0,
        "restart_count": 0,
        "time_utc": START + datetime.timedelta(seconds=second),
        "monotonic_ns": int(second * 1e9),
        "job": "train",
        "phase": phase,
        "epoch": None,
        "scope": "process_tree",
    }
    return row | changes


def write_tables(folder: Path, *, runs: Rows, epochs: Rows = (), cases: Rows = (), samples: Rows = ()) -> Path:
    """Rows as the four Parquet tables in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows, fields in (
        ("runs", runs, schema.RUNS),
        ("epochs", epochs, schema.EPOCHS),
        ("cases", cases, schema.CASES),
        ("samples", samples, schema.SAMPLES),
    ):
        pq.write_table(pa.Table.from_pylist(list(rows), schema=fields), folder / f"{name}.parquet")
    return folder


def write_campaign(folder: Path) -> Path:
    """A campaign as a person would see it: 2 groups x 2 seeds x 12 epochs with samples, a failed and a running run."""
    runs, epochs, cases, samples = [], [], [], []
    for group, (backend, device) in enumerate((("tensorflow", "cpu"), ("torch", "gpu"))):
        gpu = {"gpu_name": "Tesla T4", "gpu_driver": "550.54"} if device == "gpu" else {}
        for seed in (0, 1):
            run_id = f"{backend}-seed{seed}"
            seconds = (19.0, 3.1)[group] + 0.4 * seed
            runs.append(
                run_row(
                    run_id,
                    backend=backend,
                    device=device,
                    seed=seed,
                    train_epoch_seconds=seconds,
                    config_hash=f"{seed}c" * 32,
                    **gpu,
                )
            )
            for epoch in range(1, 13):
                for lag, subset in ((0.0, "train"), (0.04, "validation")):
                    dice = (0.86 - 0.03 * group) * (1 - 0.75**epoch) - lag - 0.01 * seed
                    loss = 0.4 * 0.8**epoch + 0.02 + lag / 2 + 0.002 * seed
                    epochs.append(
                        epoch_row(
                            run_id, epoch, subset, dice=dice, loss=loss, seconds=seconds, dice_slice_hard_smooth1=0.9
                        )
                    )
            for number in range(6):
                subset = ("test", "test", "test", "validation", "validation", "train")[number]
                dice = 0.62 + 0.05 * number - 0.02 * group + 0.01 * seed
                cases.append(case_row(run_id, f"sub-{number + 1:02d}", subset, dice=dice, iou=dice / (2 - dice)))
            samples += sampled(run_id, device, seconds)
    runs.append(run_row("tensorflow-seed2", seed=2, status="failed", train_epoch_seconds=None, evaluate_seconds=None))
    runs.append(
        run_row("torch-seed2", backend="torch", device="gpu", seed=2, status="running", train_epoch_seconds=None)
    )
    return write_tables(folder, runs=runs, epochs=epochs, cases=cases, samples=samples)


def sampled(run_id: str, device: str, epoch_seconds: float) -> list[dict[str, Any]]:
    """Two samples a second through set-up, 12 epochs and the evaluation."""
    rows: list[dict[str, Any]] = []
    second, joules = 0.0, 0.0
    stretches: list[tuple[str, int | None, str, float]] = [("setup", None, "train", 8.0)]
    for number in range(1, 13):
        stretches += [("train", number, "train", epoch_seconds), ("validation", number, "train", 2.0)]
    stretches.append(("evaluate", None, "evaluate", 6.0))
    for phase, epoch, job, length in stretches:
        for _ in range(int(length * 2)):
            wave = (second * 7919) % 13 / 13
            busy = {"setup": 0.1, "train": 0.9, "validation": 0.6, "evaluate": 0.5}[phase] - 0.05 * wave
            place: dict[str, Any] = {"job": job, "phase": phase, "epoch": epoch}
            rows.append(
                sample_row(
                    run_id,
                    second,
                    **place,
                    cpu_utilization_percent=1600 * busy,
                    cpu_utilization_ratio=busy,
                    rss_bytes=int(1e9 + 1.2e9 * min(1, second / 30) + 5e7 * wave),
                )
            )
            if device == "gpu":
                joules += 35 * busy
                rows.append(
                    sample_row(
                        run_id,
                        second,
                        **place,
                        scope="gpu",
                        device_uuid="GPU-1",
                        gpu_utilization_ratio=busy,
                        gpu_memory_used_bytes=int(9e9 * min(1, second / 10)),
                        gpu_memory_total_bytes=16_000_000_000,
                        gpu_memory_bandwidth_busy_ratio=busy / 2,
                        gpu_power_watts=70 * busy,
                        gpu_energy_joules_total=joules,
                    )
                )
            second += 0.5
    return rows
