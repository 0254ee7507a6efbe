"""Training `cascade3d` from a reader of patches, against training it on one resident batch.

`python -m benchmarks.micro.patch_reader [--json]`. Batches of 128 patches of 11^3 voxels and 3 channels, on TensorFlow,
with Adam and categorical cross-entropy. The reader cuts patches from phantom volumes of 182 x 218 x 182 voxels, mixes
them and augments them, as published or richly. All take turns, an epoch each;
a ratio is the median of those of the turns.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from mspipeline.backends.base import Execution
from mspipeline.backends.keras.tensorflow import TensorFlowBackend
from mspipeline.benchmarks.micro.result import Result, main
from mspipeline.channels import channels_of
from mspipeline.config import PrepareJob, SplitSettings
from mspipeline.datasets.phantom import make_phantom
from mspipeline.jobs.work.prepare import prepare
from mspipeline.losses import make_loss
from mspipeline.models.catalogue import build
from mspipeline.network.weights import initial_weights
from mspipeline.optimizers import Adam
from mspipeline.patches.augment import augmentation
from mspipeline.patches.sampling import first_stage
from mspipeline.recipes.patches3d.batches import PatchReader
from mspipeline.recipes.patches3d.blocks import PatchBatch
from mspipeline.recipes.patches3d.shard import PatchEntry, read_voxels
from mspipeline.shards.manifest import entries_as, load_manifest

SHAPE = (182, 218, 182)
CASES = 2
BATCH = 128
STEPS = 10
ROUNDS = 11
BOUNDS = {"cut": 1 / 1.05, "cut, richly augmented": 1 / 1.05}


def measure() -> list[Result]:
    """Medians over ROUNDS, after one round that compiles and loads."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as opened:
        readers = {form: opened.enter_context(reader) for form, reader in _readers(Path(name)).items()}
        step = _step()
        resident = [next(readers["cut"].epoch(0))] * STEPS
        seconds: dict[str, list[float]] = {form: [] for form in ("resident", *readers)}
        alone: dict[str, list[float]] = {form: [] for form in readers}
        for number in range(ROUNDS + 1):
            seconds["resident"].append(_seconds(step, resident))
            for form, reader in readers.items():
                seconds[form].append(_seconds(step, reader.epoch(number)))
                began = time.process_time()
                for _ in reader.epoch(number):
                    pass
                alone[form].append((time.process_time() - began) / STEPS)
    bare = seconds.pop("resident")[1:]
    return [
        Result(
            name=f"training cascade3d on patches {form}",
            peer="training it on a resident batch",
            ratio=statistics.median(one / own for one, own in zip(bare, own_s[1:], strict=True)),
            bound=BOUNDS[form],
            detail=(
                f"{_ms(own_s)} ms a step of {BATCH} against {_ms(bare)} ms, medians of {ROUNDS} rounds, "
                f"{len(os.sched_getaffinity(0))} cores; reading alone takes {_ms(alone[form])} ms of processor time"
            ),
        )
        for form, own_s in seconds.items()
    ]


def _readers(folder: Path) -> dict[str, PatchReader]:
    """Of STEPS batches an epoch each."""
    make_phantom(folder / "data", cases=CASES, shape=SHAPE, spacing_mm=(1.0, 1.0, 1.0))
    shards = folder / "shards"
    job = PrepareJob(
        dataset=folder / "data", output=shards, recipe="patches3d", split=SplitSettings(validation=0, test=0)
    )
    prepare(job)
    entries = entries_as(PatchEntry, load_manifest(shards).cases)
    count = STEPS * BATCH // CASES
    selection = {}
    for entry in entries:
        patches = first_stage(read_voxels(shards, entry), case=entry.case, seed=0)
        selection[entry.case] = patches.take(np.random.default_rng(0).permutation(len(patches))[:count])

    def cut(name: str) -> PatchReader:
        return PatchReader(
            shards,
            entries,
            patch_size=(11, 11, 11),
            selection=selection,
            batch_size=BATCH,
            seed=0,
            shuffle=True,
            augment=augmentation(name),
        )

    return {"cut": cut("published"), "cut, richly augmented": cut("rich")}


def _step() -> Callable[[PatchBatch], object]:
    graph = build("cascade3d", (11, 11, 11, 3), {})
    backend = TensorFlowBackend()
    backend.build(graph, Execution(threads=len(os.sched_getaffinity(0))))
    backend.set_weights(initial_weights(graph, 0))
    backend.compile(make_loss("categorical_ce"), Adam(1e-3))
    channels = channels_of(graph, spatial=())
    return lambda batch: backend.train_step(batch.images, channels.targets(batch.masks))


def _seconds(work: Callable[[PatchBatch], object], batches: Iterable[PatchBatch]) -> float:
    """Of a batch, on average."""
    start = time.perf_counter()
    for batch in batches:
        work(batch)
    return (time.perf_counter() - start) / STEPS


def _ms(seconds: list[float]) -> str:
    return f"{1e3 * statistics.median(seconds):.1f}"


if __name__ == "__main__":
    main(measure, __doc__.splitlines()[0])
