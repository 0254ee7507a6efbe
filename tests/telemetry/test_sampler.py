from __future__ import annotations

import logging
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from mspipeline.telemetry.cpu import ProcessTree
from mspipeline.telemetry.gpu import open_gpus
from mspipeline.telemetry.sampler import Sampler
from mspipeline.telemetry.schema import SAMPLES_STREAM, Identity
from mspipeline.telemetry.shard import StreamWriter, read_stream

Start = Callable[..., "subprocess.Popen[str]"]
IDENTITY = Identity("r", host="h")
IDLE = "print('ready', flush=True); input()"


def two_gpus() -> ModuleType:
    """A driver with two GPUs that tell their memory and nothing else."""
    nvml: Any = ModuleType("fake_nvml")
    nvml.NVMLError, nvml.NVML_TEMPERATURE_GPU = RuntimeError, 0

    def refuse(*_: Any) -> Any:
        raise nvml.NVMLError("Not Supported")

    for name in ("UtilizationRates", "PowerUsage", "TotalEnergyConsumption", "Temperature", "Name"):
        setattr(nvml, f"nvmlDeviceGet{name}", refuse)
    nvml.nvmlInit = nvml.nvmlShutdown = lambda: None
    nvml.nvmlDeviceGetCount = lambda: 2
    nvml.nvmlDeviceGetHandleByIndex = lambda index: index
    nvml.nvmlDeviceGetUUID = lambda handle: f"GPU-{handle}"
    nvml.nvmlDeviceGetMemoryInfo = lambda handle: SimpleNamespace(used=10 + handle, total=100)
    return nvml


@dataclass(frozen=True)
class SimpleReading:
    """A reading of a GPU that no column holds."""

    gpu_power_watts: complex


def test_samples_keep_to_an_absolute_schedule(start: Start, tmp_path: Path) -> None:
    with StreamWriter(tmp_path / "s.arrows", SAMPLES_STREAM) as stream:
        sampler = Sampler(stream, ProcessTree(start(IDLE).pid, 1), None, IDENTITY, period_s=0.1)
        sampler.start()
        time.sleep(1.55)
        sampled = sampler.stop()
    times = read_stream(tmp_path / "s.arrows", SAMPLES_STREAM).column("monotonic_ns").to_pylist()
    assert sampled.samples == len(times)
    assert 10 <= len(times) <= 17  # 16 on the schedule and the one at the stop; a busy machine may leave some out
    # Each is a whole number of periods after the first; a schedule that drifts by 1 ms a sample would be 15 ms off.
    offsets = [((time_ns - times[0]) / 1e8) % 1 for time_ns in times[1:-1]]
    late = sorted(min(offset, 1 - offset) for offset in offsets)
    assert late[len(late) // 2] < 0.1  # the median is within 10 ms


def test_the_last_sample_is_taken_at_the_stop(start: Start, tmp_path: Path) -> None:
    with StreamWriter(tmp_path / "s.arrows", SAMPLES_STREAM) as stream:
        sampler = Sampler(stream, ProcessTree(start(IDLE).pid, 1), None, IDENTITY, period_s=60)
        sampler.start()
        time.sleep(0.2)
        before = time.monotonic_ns()
        assert sampler.stop().samples == 2
        assert time.monotonic_ns() - before < 2e9
    times = read_stream(tmp_path / "s.arrows", SAMPLES_STREAM).column("monotonic_ns").to_pylist()
    assert times[0] < before <= times[1]


def test_rows_reach_the_disk_within_a_second(start: Start, tmp_path: Path) -> None:
    with StreamWriter(tmp_path / "s.arrows", SAMPLES_STREAM) as stream:
        sampler = Sampler(stream, ProcessTree(start(IDLE).pid, 1), None, IDENTITY, period_s=0.2)
        sampler.start()
        deadline = time.monotonic() + 1.8
        oldest_s = []
        while time.monotonic() < deadline:
            time.sleep(0.1)
            on_disk = read_stream(tmp_path / "s.arrows", SAMPLES_STREAM).column("monotonic_ns").to_pylist()
            oldest_s.append((time.monotonic_ns() - max(on_disk, default=0)) / 1e9)
        sampler.stop()
    # What is not on disk yet is younger than the newest row on disk: one period more than a second at most.
    assert sorted(oldest_s)[len(oldest_s) * 9 // 10] < 1.3


def test_a_row_for_the_tree_and_one_for_each_gpu(start: Start, tmp_path: Path) -> None:
    gpus = open_gpus(None, two_gpus())
    with StreamWriter(tmp_path / "s.arrows", SAMPLES_STREAM) as stream:
        sampler = Sampler(stream, ProcessTree(start(IDLE).pid, 1), gpus, IDENTITY, period_s=60)
        sampler.start()
        assert sampler.stop().samples == 6
    rows = read_stream(tmp_path / "s.arrows", SAMPLES_STREAM).drop_columns(["time_utc"]).to_pylist()
    assert [row["scope"] for row in rows] == ["process_tree", "gpu", "gpu"] * 2
    assert [row["device_uuid"] for row in rows[:3]] == [None, "GPU-0", "GPU-1"]
    assert [row["gpu_memory_used_bytes"] for row in rows[:3]] == [None, 10, 11]
    assert rows[1]["gpu_power_watts"] is None
    assert rows[1]["rss_bytes"] is None
    assert rows[0]["processes"] == 1
    assert len({row["monotonic_ns"] for row in rows[:3]}) == 1
    assert all((row["run_id"], row["host"]) == ("r", "h") for row in rows)


def test_the_samplers_own_cpu_time_is_that_of_its_thread(start: Start, tmp_path: Path) -> None:
    with StreamWriter(tmp_path / "s.arrows", SAMPLES_STREAM) as stream:
        sampler = Sampler(stream, ProcessTree(start(IDLE).pid, 1), None, IDENTITY, period_s=0.1)
        before = time.process_time()
        sampler.start()
        burnt = time.thread_time() + 0.5
        while time.thread_time() < burnt:
            pass
        sampled = sampler.stop()
        used = time.process_time() - before
    costs = read_stream(tmp_path / "s.arrows", SAMPLES_STREAM).column("sampler_cpu_seconds_total").to_pylist()
    assert costs == sorted(costs)
    assert costs[-1] == sampled.cpu_seconds
    assert 0 < sampled.cpu_seconds < used - 0.4  # without the half second burnt beside it


def test_the_peak_is_that_of_the_samples(start: Start, tmp_path: Path) -> None:
    process = start("held = bytearray(150_000_000); print('ready', flush=True); input()")
    with StreamWriter(tmp_path / "s.arrows", SAMPLES_STREAM) as stream:
        sampler = Sampler(stream, ProcessTree(process.pid, 1), None, IDENTITY, period_s=0.05)
        sampler.start()
        time.sleep(0.2)
        process.kill()
        process.wait()
        peak = sampler.stop().peak_rss_bytes
    rows = read_stream(tmp_path / "s.arrows", SAMPLES_STREAM).column("rss_bytes").to_pylist()
    assert peak == max(row for row in rows if row is not None)
    assert peak is not None
    assert peak > 150e6
    assert rows[-1] is None


def test_a_reading_that_raises_whatever_it_likes_is_null_and_logged_once(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(ProcessTree):
        def read(self) -> Any:
            raise RuntimeError("nobody foresaw this")

    with StreamWriter(tmp_path / "s.arrows", SAMPLES_STREAM) as stream:
        sampler = Sampler(stream, Broken(start(IDLE).pid, 1), open_gpus(None, two_gpus()), IDENTITY, period_s=0.05)
        sampler.start()
        time.sleep(0.2)
        sampled = sampler.stop()
    rows = read_stream(tmp_path / "s.arrows", SAMPLES_STREAM).drop_columns(["time_utc"]).to_pylist()
    assert {(row["scope"], row["processes"], row["rss_bytes"]) for row in rows} == {
        ("process_tree", None, None),
        ("gpu", None, None),
    }
    assert len(rows) >= 6
    assert sampled.complete  # every row is there
    assert caplog.text.count("nobody foresaw this") == 1


def test_a_value_that_fits_no_column_costs_its_rows_alone(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nvml: Any = two_gpus()
    totals = iter([2.5j])  # the first reading's
    nvml.nvmlDeviceGetTemperature = lambda *_: 40
    gpus = open_gpus(None, nvml)
    assert gpus is not None
    answer = gpus.read

    def read() -> Any:
        first = next(totals, None)
        return answer() if first is None else [SimpleReading(first)]

    gpus.read = read  # type: ignore[method-assign]
    with StreamWriter(tmp_path / "s.arrows", SAMPLES_STREAM) as stream:
        sampler = Sampler(stream, ProcessTree(start(IDLE).pid, 1), gpus, IDENTITY, period_s=60)
        sampler.start()
        time.sleep(0.2)
        sampled = sampler.stop()
    assert (sampled.samples, sampled.complete) == (3, False)
    assert read_stream(tmp_path / "s.arrows", SAMPLES_STREAM).num_rows == 3
    assert "does not fit its column" in caplog.text


def test_a_full_disk_is_logged_once_and_its_rows_are_written_when_there_is_room(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "s.arrows"
    before, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    with StreamWriter(path, SAMPLES_STREAM) as stream:
        sampler = Sampler(stream, ProcessTree(start(IDLE).pid, 1), None, IDENTITY, period_s=0.02)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
            with caplog.at_level(logging.WARNING):
                sampler.start()
                deadline = time.monotonic() + 30
                while "samples are not written" not in caplog.text and time.monotonic() < deadline:
                    time.sleep(0.01)
                time.sleep(2.2)  # two more tries
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, before)
        sampled = sampler.stop()
    assert caplog.text.count("samples are not written") == 1
    assert sampled.complete
    assert read_stream(path, SAMPLES_STREAM).num_rows == sampled.samples > 20


def test_a_reading_that_hangs_ends_the_sampling_and_not_the_job(start: Start, tmp_path: Path) -> None:
    hang = threading.Event()
    nvml: Any = two_gpus()
    gpus = open_gpus(None, nvml)
    with StreamWriter(tmp_path / "s.arrows", SAMPLES_STREAM) as stream:
        sampler = Sampler(stream, ProcessTree(start(IDLE).pid, 1), gpus, IDENTITY, period_s=60, patience_s=0.2)
        sampler.start()
        time.sleep(0.2)
        nvml.nvmlDeviceGetMemoryInfo = lambda handle: hang.wait()
        sampled = sampler.stop()
    hang.set()
    assert (sampled.samples, sampled.complete) == (3, False)
    assert read_stream(tmp_path / "s.arrows", SAMPLES_STREAM).num_rows == 3


@pytest.mark.parametrize("period_s", [0, -1])
def test_a_period_that_is_none_is_refused(tmp_path: Path, period_s: float) -> None:
    with StreamWriter(tmp_path / "s.arrows", SAMPLES_STREAM) as stream, pytest.raises(ValueError, match="period_s"):
        Sampler(stream, ProcessTree(1, 1), None, IDENTITY, period_s=period_s)
