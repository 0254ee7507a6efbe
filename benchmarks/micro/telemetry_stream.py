"""Reading the samples of a long run, against Arrow's own reader: `python -m benchmarks.micro.telemetry_stream`.

10,000 record batches of one row, as the sampler writes them in three hours at one a second. Both read the same file in
turn; ours also gives back what precedes a torn end, and brings every batch to the schema of today.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from mspipeline.benchmarks.micro.result import Result, main
from mspipeline.telemetry.schema import SAMPLES_STREAM
from mspipeline.telemetry.shard import read_stream

BATCHES = 10_000
REPEATS = 7
BOUND = 0.4


def measure() -> list[Result]:
    """Medians over REPEATS, the two taking turns."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "samples.arrows"
        batch = pa.RecordBatch.from_pylist([{"run_id": "r", "scope": "process_tree"}], schema=SAMPLES_STREAM)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, SAMPLES_STREAM) as stream:
            for _ in range(BATCHES):
                stream.write_batch(batch)
        work: dict[str, Callable[[], object]] = {
            "ours": lambda: read_stream(path, SAMPLES_STREAM),
            "arrow": lambda: pa.ipc.open_stream(path.read_bytes()).read_all(),
        }
        seconds: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(REPEATS):
            for name, call in work.items():
                began = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - began)
    ours, arrow = (statistics.median(seconds[name]) for name in ("ours", "arrow"))
    detail = f"{ours:.3f} s against {arrow:.3f} s, medians of {REPEATS}"
    return [Result(f"reading {BATCHES:,} batches of samples", "pyarrow.ipc", arrow / ours, BOUND, detail)]


if __name__ == "__main__":
    main(measure, __doc__.splitlines()[0])
