"""The training loop with its reader, scores and events, against Keras' `train_on_batch` on one resident batch.

`python -m benchmarks.micro.training_loop`. Both train the same narrow U-Net on 128x128 slices in batches of 8, with
Adam and binary cross-entropy; they take turns, an epoch's number of steps each.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from mspipeline.backends.base import Execution
from mspipeline.backends.keras.backend import load_keras
from mspipeline.backends.keras.layers import realise
from mspipeline.backends.keras.tensorflow import TensorFlowBackend
from mspipeline.benchmarks.micro.result import Result, main
from mspipeline.config import PrepareJob, SplitSettings, TrainingSettings
from mspipeline.datasets.phantom import make_phantom
from mspipeline.jobs.work.prepare import prepare
from mspipeline.losses import make_loss
from mspipeline.models.catalogue import build
from mspipeline.network.graph import Graph
from mspipeline.network.weights import initial_weights
from mspipeline.optimizers import Adam
from mspipeline.recipes.catalogue import recipe_of
from mspipeline.recipes.slices2d.batches import SliceBatch, SliceReader
from mspipeline.recipes.slices2d.shard import SliceEntry
from mspipeline.runs import RunPaths
from mspipeline.shards.manifest import entries_as, load_manifest
from mspipeline.telemetry.events import EventWriter
from mspipeline.telemetry.schema import Identity
from mspipeline.training.loop import Training
from mspipeline.training.progress import RunIdentity

SHAPE = (128, 128, 48)
CASES = 4
BATCH = 8
ROUNDS = 9
BOUND = 0.95


class TakingTurns:
    """Observer that times the bare loop before each epoch of ours, and notes what ours took."""

    def __init__(self, model: Any, batch: SliceBatch) -> None:
        self._model, self._batch = model, batch
        self.bare_s: list[float] = []
        self.ours_s: list[float] = []

    def epoch_begins(self, epoch: int, epochs: int, subset: str, steps: int, step: int) -> None:
        began = time.perf_counter()
        for _ in range(steps):
            self._model.train_on_batch(self._batch.images, self._batch.masks)
        self.bare_s.append((time.perf_counter() - began) / steps)

    def step_done(self, loss: float, dice: float, images_per_second: float) -> None:
        pass

    def epoch_ended(self, epoch: int, epochs: int, rows: list[dict[str, Any]]) -> None:
        self.ours_s.append(rows[0]["seconds"] * BATCH / rows[0]["images"])


def measure() -> list[Result]:
    """Medians over ROUNDS, after one round that compiles."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_phantom(folder / "data", cases=CASES, shape=SHAPE)
        job = PrepareJob(dataset=folder / "data", output=folder / "shards", split=SplitSettings(validation=0, test=0))
        prepare(job, recipe_overrides={"size": SHAPE})
        turns = _train(folder)
    bare, ours = (statistics.median(times[1:]) for times in (turns.bare_s, turns.ours_s))
    detail = f"{1e3 * ours:.1f} ms a step against {1e3 * bare:.1f} ms, medians of {ROUNDS} rounds"
    return [Result("training loop with its reader", "Keras train_on_batch, resident", bare / ours, BOUND, detail)]


def _train(folder: Path) -> TakingTurns:
    manifest = load_manifest(folder / "shards")
    graph = build("unet2d", recipe_of(manifest.recipe, where="manifest").image_shape, {"base_width": 8})
    backend = TensorFlowBackend()
    backend.build(graph, Execution(threads=len(os.sched_getaffinity(0))))
    backend.set_weights(initial_weights(graph, 0))
    backend.compile(make_loss("bce"), Adam(1e-3))
    settings = TrainingSettings(epochs=ROUNDS + 1, batch_size=BATCH)
    with (
        SliceReader(
            folder / "shards", entries_as(SliceEntry, manifest.cases), batch_size=BATCH, seed=0, shuffle=True
        ) as reader,
        EventWriter(folder / "events.arrows", Identity("")) as events,
    ):
        turns = TakingTurns(_bare_model(graph), next(reader.epoch(0)))
        Training(
            backend,
            reader,
            None,
            settings,
            paths=RunPaths(folder / "run"),
            identity=RunIdentity("", graph.hash, "", 0),
            events=events,
            observer=turns,
            stop=lambda: None,
            loss=make_loss("bce"),
            monitor="train_loss",
        ).run()
    return turns


def _bare_model(graph: Graph) -> Any:
    """The network in Keras alone: its own dropout in place of ours, whose masks somebody else has to draw."""
    keras = load_keras("tensorflow")

    def of_keras(layer: Any) -> Any:
        rate = getattr(layer, "rate", None)
        if rate is not None:
            return keras.layers.Dropout(rate, name=layer.name)
        return type(layer).from_config(layer.get_config())

    model = keras.models.clone_model(realise(keras, graph), clone_function=of_keras)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="binary_crossentropy")
    return model


if __name__ == "__main__":
    main(measure, __doc__)
