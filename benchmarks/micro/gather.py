"""Patches cut from a volume: `gather` against copying the same bytes, and against NumPy.

Run as `python -m benchmarks.micro.gather [--json]`. 100,000 random patches of 11^3 voxels and 3 channels, float32,
from a volume of 182 x 218 x 182: 1.6 GB, written to memory that is in use already. Copying is `numpy.copyto` of as many
bytes in as many threads. NumPy cuts from a volume padded beforehand, in the fastest of three forms, measured on fewer
patches: strided windows with fancy indexing, indices into the flat volume, and a slice a patch.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from mspipeline.benchmarks.micro.result import Result, main
from mspipeline.patches.gather import gather

GRID = (182, 218, 182)
SIZE = (11, 11, 11)
CHANNELS = 3
PATCHES = 100_000
PATCHES_NUMPY = 10_000
REPEATS = 7
OF_COPY = 0.55
OF_NUMPY = 3.0

Patches = npt.NDArray[np.float32]
Voxels = npt.NDArray[np.int64]


def measure() -> list[Result]:
    """Medians over REPEATS, gather and its peers taking turns."""
    threads = len(os.sched_getaffinity(0))
    random = np.random.default_rng(0)
    volume = random.random((*GRID, CHANNELS), np.float32)
    centres = np.stack([random.integers(0, n, PATCHES) for n in GRID], axis=1)
    out = np.zeros((PATCHES, *SIZE, CHANNELS), np.float32)
    source = np.ones_like(out)
    gather(volume, centres[:2], SIZE)  # compiles
    padded = np.pad(volume, [*((n // 2, n // 2) for n in SIZE), (0, 0)])
    few = centres[:PATCHES_NUMPY]
    work: dict[str, Callable[[], object]] = {
        "gather": lambda: gather(volume, centres, SIZE, out=out, threads=threads),
        "copy": lambda: _copy(source, out, threads),
        "strided windows": lambda: _windows(padded, few),
        "flat indices": lambda: _flat(padded, few),
        "a slice a patch": lambda: _slices(padded, few, out[:PATCHES_NUMPY]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(REPEATS):
        for form, call in work.items():
            seconds[form].append(_seconds(call))
    medians = {form: statistics.median(values) for form, values in seconds.items()}
    gather_s, copy_s = medians.pop("gather"), medians.pop("copy")
    numpy_s = {form: value * PATCHES / PATCHES_NUMPY for form, value in medians.items()}
    fastest = min(numpy_s, key=lambda form: numpy_s[form])
    name = f"gather of {PATCHES:,} patches of {CHANNELS}x11^3"
    gb = out.nbytes / 1e9
    return [
        Result(
            name=name,
            peer="copying the same bytes",
            ratio=copy_s / gather_s,
            bound=OF_COPY,
            detail=f"{gather_s:.3f} s and {copy_s:.3f} s, {gb:.2f} GB, medians of {REPEATS}, {threads} threads",
        ),
        Result(
            name=name,
            peer="the best NumPy form",
            ratio=numpy_s[fastest] / gather_s,
            bound=OF_NUMPY,
            detail=f"gather {gather_s:.3f} s, " + ", ".join(f"{form} {value:.2f} s" for form, value in numpy_s.items()),
        ),
    ]


def _copy(source: Patches, out: Patches, threads: int) -> None:
    parts = [slice(len(out) * share // threads, len(out) * (share + 1) // threads) for share in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda part: np.copyto(out[part], source[part]), parts))


def _windows(padded: Patches, corners: Voxels) -> Patches:
    windows = np.lib.stride_tricks.sliding_window_view(padded, SIZE, axis=(0, 1, 2))  # (X, Y, Z, C, 11, 11, 11)
    return windows.transpose(0, 1, 2, 4, 5, 6, 3)[corners[:, 0], corners[:, 1], corners[:, 2]]


def _flat(padded: Patches, corners: Voxels) -> Patches:
    x, y, z, c = padded.strides
    offsets = sum(
        np.arange(n).reshape([-1 if axis == own else 1 for axis in range(4)]) * (stride // padded.itemsize)
        for own, (n, stride) in enumerate(zip((*SIZE, CHANNELS), (x, y, z, c), strict=True))
    )
    origins = corners @ (np.array([x, y, z]) // padded.itemsize)
    patches: Patches = padded.reshape(-1).take(origins[:, None, None, None, None] + offsets)
    return patches


def _slices(padded: Patches, corners: Voxels, out: Patches) -> None:
    for patch, (x, y, z) in zip(out, corners.tolist(), strict=True):
        patch[...] = padded[x : x + SIZE[0], y : y + SIZE[1], z : z + SIZE[2]]


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main(measure, __doc__.splitlines()[0])
