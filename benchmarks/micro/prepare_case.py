"""`prepare` of one case of 182 x 218 x 182 voxels against the bare cost of the resampling calls it makes.

Run as `python -m benchmarks.micro.prepare_case [--json]`. The case is a phantom with FLAIR, lesion mask and brain mask;
the recipe is `slices2d`, to 256^3. The peer repeats, on the same arrays in memory, every interpolation that prepare
makes, one after another in one thread; prepare itself spreads them over threads and overlaps them with compression.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mspipeline.benchmarks.micro.result import Result, main
from mspipeline.config import PrepareJob
from mspipeline.datasets.layouts import find_cases
from mspipeline.datasets.phantom import make_phantom
from mspipeline.jobs.work.prepare import prepare
from mspipeline.preprocess.spatial import resample, to_slices
from mspipeline.recipes.slices2d.case import BLOCK_SLICES, PreparedCase
from mspipeline.recipes.slices2d.prepare import apply_files
from mspipeline.recipes.slices2d.schema import SliceSchema

SHAPE = (182, 218, 182)
REPEATS = 7
BOUND = 1 / 1.3


def measure() -> list[Result]:
    """Medians over REPEATS, prepare and peer taking turns."""
    with tempfile.TemporaryDirectory() as folder:
        dataset, output = Path(folder) / "dataset", Path(folder) / "shards"
        make_phantom(dataset, cases=1, shape=SHAPE, spacing_mm=(1.0, 1.0, 1.0))
        recipe = SliceSchema()
        case = find_cases(dataset, recipe.modalities, masks="required").cases[0]
        prepared = apply_files(recipe, case.scans, case.brain_mask, mask=case.lesion_mask)
        job = PrepareJob(dataset=dataset, output=output)
        ours, bare = [], []
        for _ in range(REPEATS):
            shutil.rmtree(output, ignore_errors=True)
            ours.append(_seconds(lambda: prepare(job)))
            bare.append(_seconds(lambda: _resampling_calls(prepared)))
    prepare_s, bare_s = statistics.median(ours), statistics.median(bare)
    return [
        Result(
            name="prepare of one 182x218x182 case to 256^3",
            peer="the bare cost of its resampling calls",
            ratio=bare_s / prepare_s,
            bound=BOUND,
            detail=(
                f"prepare {prepare_s:.3f} s, its resampling calls {bare_s:.3f} s in one thread, medians of {REPEATS}; "
                f"prepare reads, hashes, normalises, resamples, compresses, checksums and syncs, "
                f"on {len(os.sched_getaffinity(0))} cores"
            ),
        )
    ]


def _resampling_calls(prepared: PreparedCase) -> None:
    recipe = prepared.recipe
    size = (recipe.size[recipe.axis], *recipe.image_shape[:2])
    scan = to_slices(prepared.scans["FLAIR"], recipe.axis)
    if prepared.truth is None:
        raise RuntimeError("the phantom has no lesion mask")
    lesions = to_slices(prepared.truth, recipe.axis)
    for first in range(0, size[0], BLOCK_SLICES):
        rows = (first, min(first + BLOCK_SLICES, size[0]))
        resample(scan, size, order=recipe.image_order, rows=rows)
        resample(lesions, size, order=recipe.mask_order, rows=rows)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main(measure, __doc__.splitlines()[0])
