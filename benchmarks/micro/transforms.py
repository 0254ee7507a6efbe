"""Transforms of slices: against MONAI's of the same kind, and what they cost the reader of batches.

Run as `python -m benchmarks.micro.transforms [--json]`. MONAI is looked for as a package; where it is absent, that is
said and left out. Slices of 256 x 256 float32, one thread, medians. Against MONAI every transform is applied to every
slice; the reader has them with their own probabilities, and its ratio is the time without them by that with them.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from mspipeline.benchmarks.micro.result import Result, main
from mspipeline.config import PrepareJob, SplitSettings
from mspipeline.datasets.phantom import make_phantom
from mspipeline.jobs.work.prepare import prepare
from mspipeline.recipes.slices2d.batches import SliceReader
from mspipeline.recipes.slices2d.shard import SliceEntry
from mspipeline.shards.manifest import entries_as, load_manifest
from mspipeline.transforms.chain import Chain, make_chain
from mspipeline.transforms.registry import TRANSFORMS

SIDE = 256
SLICES = 32
REPEATS = 11
BATCH = 8
FASTER = 1.0
READ = 1 / 4
Slice = np.ndarray[Any, np.dtype[np.float32]]


def measure() -> list[Result]:
    """MONAI's ratio, where it is here, and the reader's."""
    return [*_against_monai(), _reading()]


def _against_monai() -> list[Result]:
    if not find_spec("monai"):
        print("MONAI: not here, left out", file=sys.stderr)
        return []
    image = np.random.default_rng(0).normal(size=(SIDE, SIDE, 1)).astype(np.float32)
    labels = (image[..., 0] > 2).astype(np.uint8)
    every = [{"name": name, "probability": 1.0} for name in TRANSFORMS.built_in]
    chain = _chain(every)

    def ours() -> None:
        for place in range(SLICES):
            for each in chain(image, labels, seed=0, epoch=0, case="sub-01", place=place):
                np.ascontiguousarray(each)

    seconds = _turns({"ours": ours, "theirs": _monai(image, labels)})
    own_s, their_s = seconds["ours"], seconds["theirs"]
    detail = f"{own_s / SLICES * 1e3:.2f} and {their_s / SLICES * 1e3:.2f} ms a slice, one thread"
    return [Result(f"{len(every)} transforms of {SIDE}^2", "MONAI's", their_s / own_s, FASTER, detail)]


def _monai(image: Slice, labels: np.ndarray[Any, Any]) -> Callable[[], None]:
    import torch
    from monai import transforms

    torch.set_num_threads(1)
    both = ["image", "labels"]
    compose = transforms.Compose(
        [
            transforms.RandFlipd(both, prob=0.5, spatial_axis=0),
            transforms.RandFlipd(both, prob=0.5, spatial_axis=1),
            transforms.RandRotate90d(both, prob=0.75, spatial_axes=(0, 1)),
            transforms.RandGaussianNoised("image", prob=1.0, std=0.1),
            transforms.RandScaleIntensityd("image", factors=0.25, prob=1.0),
            transforms.RandScaleIntensityFixedMeand("image", factors=0.25, preserve_range=True, prob=1.0),
            transforms.RandAdjustContrastd("image", gamma=(0.7, 1.5), retain_stats=True, prob=1.0),
        ]
    )
    pair = {"image": torch.from_numpy(image).permute(2, 0, 1), "labels": torch.from_numpy(labels)[None]}

    def work() -> None:
        for _ in range(SLICES):
            compose(pair)

    return work


def _reading() -> Result:
    own = [{"name": name} for name in TRANSFORMS.built_in]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_phantom(folder / "data", cases=1, shape=(96, 96, SLICES))
        job = PrepareJob(dataset=folder / "data", output=folder / "shards", split=SplitSettings(validation=0, test=0))
        prepare(job, recipe_overrides={"size": (SIDE, SIDE, SLICES)})
        entries = entries_as(SliceEntry, load_manifest(folder / "shards").cases)
        plain, transformed = (
            SliceReader(folder / "shards", entries, batch_size=BATCH, seed=0, shuffle=True, transforms=chain)
            for chain in (Chain(), _chain(own))
        )
        with plain, transformed:
            seconds = _turns({"plain": lambda: [*plain.epoch(0)], "transformed": lambda: [*transformed.epoch(0)]})
    plain_s, transformed_s = (seconds[form] / (SLICES / BATCH) for form in ("plain", "transformed"))
    detail = f"{transformed_s * 1e3:.1f} and {plain_s * 1e3:.1f} ms a batch of {BATCH}, one thread"
    return Result("reading slices with transforms", "reading without", plain_s / transformed_s, READ, detail)


def _chain(tables: list[dict[str, Any]]) -> Chain:
    return make_chain(tables, (SIDE, SIDE, 1), where="transforms")


def _turns(works: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each, after one turn that warms up; they take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(REPEATS + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(each[1:]) for name, each in seconds.items()}


if __name__ == "__main__":
    main(measure, __doc__.splitlines()[0])
