"""The Keras adapter's training step against the same network written by hand in that engine, time and peak memory.

`python -m benchmarks.micro.adapter_step`. The U-Net of base width 16 on 128x128 images, batch 4, Adam, binary
cross-entropy; probabilities come out of both. Both take turns in one process per engine for time; for memory each runs
in a process of its own, the one by hand once more with Keras' modules loaded beside it: what they hold is the same for
every network (on 2026-11: 170 MiB with PyTorch, 90 MiB with JAX). Engines that are not installed are left out.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mspipeline.backends.base import Execution
from mspipeline.backends.keras.backend import load_keras
from mspipeline.backends.registry import availability, create
from mspipeline.benchmarks.micro import by_hand
from mspipeline.benchmarks.micro.result import Result, main
from mspipeline.losses import make_loss
from mspipeline.models.catalogue import build
from mspipeline.optimizers import Adam

ENGINES = ("tensorflow", "torch", "jax")
SIDE, BATCH, WIDTH = 128, 4, 16
ROUNDS, WARM = 25, 3
TIME_BOUND, MEMORY_BOUND = 1 / 1.03, 1 / 1.05

Step = Callable[[], object]


def _batch() -> tuple[np.ndarray, np.ndarray]:
    images = np.random.default_rng(0).standard_normal((BATCH, SIDE, SIDE, 1)).astype(np.float32)
    return images, (images > 1).astype(np.float32)


def _ours(engine: str, threads: int) -> Step:
    backend, (images, masks) = create(engine), _batch()
    backend.build(build("unet2d", (SIDE, SIDE, 1), {"base_width": WIDTH}), Execution("cpu", threads))
    backend.compile(make_loss("bce"), Adam(1e-3))
    return lambda: backend.train_step(images, masks)


def _by_hand(engine: str, threads: int) -> Step:
    images, masks = _batch()
    step = by_hand.STEPS[engine](WIDTH, threads)
    return lambda: step(images, masks)


def child(engine: str, what: str) -> None:
    """Print as JSON: seconds of ours and of the one by hand, round by round ("time"), or peak memory in KiB.

    what: else "ours", "hand", or "hand_beside_keras".
    """
    threads = len(os.sched_getaffinity(0))
    if what == "time":
        ours, hand = _ours(engine, threads), _by_hand(engine, threads)
        pairs = [(_seconds(ours), _seconds(hand)) for _ in range(WARM + ROUNDS)]
        print(json.dumps(pairs[WARM:]))
        return
    if what == "hand_beside_keras":
        load_keras(engine)
    step = (_ours if what == "ours" else _by_hand)(engine, threads)
    for _ in range(WARM + 3):
        step()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    print(json.dumps(next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))))


def _seconds(step: Step) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def _in_a_child(engine: str, what: str) -> object:
    done = subprocess.run(
        [sys.executable, "-m", "mspipeline.benchmarks.micro.adapter_step", engine, what],
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure() -> list[Result]:
    """Two ratios an engine. Time is the median of the rounds' ratios: what else runs here slows both of a round."""
    results = []
    for engine in ENGINES:
        if availability(engine).problem:
            continue
        pairs = _in_a_child(engine, "time")
        assert isinstance(pairs, list)
        ours, hand = (1e3 * statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = statistics.median(theirs / own for own, theirs in pairs)
        detail = f"{ours:.1f} ms a step against {hand:.1f} ms, medians of {ROUNDS} rounds"
        results.append(Result(f"{engine} training step", "the network by hand", ratio, TIME_BOUND, detail))
        own_mib = float(str(_in_a_child(engine, "ours"))) / 1024
        for what, peer in (("hand", "the network by hand"), ("hand_beside_keras", "the same beside Keras' modules")):
            hand_mib = float(str(_in_a_child(engine, what))) / 1024
            detail = f"{own_mib:.0f} MiB against {hand_mib:.0f} MiB"
            results.append(Result(f"{engine} peak memory", peer, hand_mib / own_mib, MEMORY_BOUND, detail))
    return results


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] in ENGINES:
        child(*sys.argv[1:])
    else:
        main(measure, __doc__)
