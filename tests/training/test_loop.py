"""mspipeline.training.loop on a backend of a few lines of NumPy: what it does can be worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mspipeline.backends.base import Execution, FloatArray
from mspipeline.config import TrainingSettings
from mspipeline.errors import Preempted, RunFolderError, ShardError, SuiteError
from mspipeline.losses import make_loss
from mspipeline.runs import RunPaths, read_rows
from mspipeline.tables.schema import EPOCHS
from mspipeline.telemetry.events import EventWriter
from mspipeline.telemetry.schema import EVENTS, Identity
from mspipeline.telemetry.shard import read_stream
from mspipeline.training.checkpoint import read_checkpoint
from mspipeline.training.collapse import Collapse
from mspipeline.training.loop import Training
from mspipeline.training.progress import RunIdentity
from tests.plugins.network import one_convolution
from tests.training.numpy_backend import BIAS, KERNEL, NumPyBackend

GRAPH = one_convolution(2, 2, 1, kernel=1)
ONES = np.ones((1, 2, 2, 1), np.float32)
CORNER = np.array([1, 0, 0, 0], np.float32).reshape(1, 2, 2, 1)
"""A lesion of one pixel of four."""
PLAIN: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 1.0, "momentum": 0, "nesterov": False, "weight_decay": 0}
"""w = w - gradient."""


@dataclass(frozen=True)
class Batch:
    images: FloatArray
    masks: FloatArray
    cases: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Reader:
    """`steps` batches an epoch, each as `make` gives it for an epoch and a step."""

    steps: int
    make: Callable[[int, int], tuple[FloatArray, FloatArray]]
    case_ids: tuple[str, ...] = ("sub-01",)

    def epoch(self, number: int, *, first_step: int = 0) -> Generator[Batch, None, None]:
        for step in range(first_step, self.steps):
            images, masks = self.make(number, step)
            yield Batch(images, masks, np.zeros(len(images), np.int32))


def always(images: FloatArray, masks: FloatArray, steps: int = 1) -> Reader:
    return Reader(steps, lambda epoch, step: (images, masks))


def drawn(epoch: int, step: int) -> tuple[FloatArray, FloatArray]:
    """Another batch in every step of every epoch, its lesions where the image is bright."""
    images = np.random.default_rng([epoch, step]).normal(size=(2, 2, 2, 1)).astype(np.float32)
    return images, (images > 0.5).astype(np.float32)


class Killed(BaseException):
    """Nobody catches it, as nobody catches SIGKILL."""


class Observer:
    """Keeps the passes that began; asks to stop, or dies, after so many steps."""

    def __init__(self, stop_after: int = 0, die_after: int = 0) -> None:
        self.passes: list[tuple[int, str, int]] = []
        self._steps, self._stop_after, self._die_after = 0, stop_after, die_after

    def epoch_begins(self, epoch: int, epochs: int, subset: str, steps: int, step: int) -> None:
        self.passes.append((epoch, subset, step))

    def step_done(self, loss: float, dice: float, images_per_second: float) -> None:
        self._steps += 1
        if self._steps == self._die_after:
            raise Killed

    def epoch_ended(self, epoch: int, epochs: int, rows: list[dict[str, Any]]) -> None:
        pass

    def stop(self) -> SuiteError | None:
        return Preempted("enough") if self._steps == self._stop_after else None


class Trainings:
    """Makes trainings that write to one run folder."""

    def __init__(self, folder: Path) -> None:
        self.paths = RunPaths(folder)
        self.backend = NumPyBackend()
        self.collapses: list[Collapse | None] = []

    def __call__(
        self,
        train: Reader,
        validation: Reader | None = None,
        observer: Observer | None = None,
        *,
        monitor: str = "train_loss",
        checkpoint_every_s: float = math.inf,
        graph_hash: str = "graph",
        events: EventWriter | None = None,
        **settings: Any,
    ) -> Training:
        """A training that is ready to run, from its last checkpoint where there is one."""
        chosen = TrainingSettings(**{"loss": "bce", "warmup_steps": 0, "clip_norm": 0.0, **settings})
        observer, loss = observer or Observer(), make_loss("bce")
        self.backend = NumPyBackend()
        self.backend.build(GRAPH, Execution())
        self.backend.compile(loss, chosen.chosen_optimizer)
        training = Training(
            self.backend,
            train,
            validation,
            chosen,
            paths=self.paths,
            identity=RunIdentity("run", graph_hash, "configuration", 0),
            events=events or EventWriter(None, Identity("run")),
            observer=observer,
            stop=observer.stop,
            loss=loss,
            monitor=monitor,
            on_collapse=self.collapses.append,
            checkpoint_every_s=checkpoint_every_s,
        )
        if training.last.exists():
            training.resume(read_checkpoint(training.last))
        return training

    @property
    def rows(self) -> list[dict[str, Any]]:
        timing = ("time_utc", "seconds", "images_per_second")
        rows = read_rows(self.paths.epochs, EPOCHS).to_pylist()
        return [{key: value for key, value in row.items() if key not in timing} for row in rows]


@pytest.fixture
def trainings(tmp_path: Path) -> Trainings:
    return Trainings(tmp_path / "run")


def test_an_epoch_of_one_step_is_what_the_formulas_give(trainings: Trainings) -> None:
    """p = 1/2, so the gradient of weight and bias is 1/2 - 1/4; after the step the logits are -1/2."""
    trainings(always(ONES, CORNER), always(ONES, CORNER), epochs=1, **PLAIN).run()
    assert trainings.backend.weights()[KERNEL].item() == trainings.backend.weights()[BIAS].item() == -0.25
    train, validation = trainings.rows
    assert train["loss"] == pytest.approx(math.log(2))
    assert validation["loss"] == pytest.approx(0.25 * math.log(1 + math.e**0.5) + 0.75 * math.log(1 + math.e**-0.5))
    assert (train["epoch"], train["subset"], train["steps_total"], train["images"]) == (1, "train", 1, 1)
    assert (train["dice"], validation["dice"]) == (pytest.approx(2 / 5), 0.0)  # 1/2 counts as lesion, so all of it does
    last = read_checkpoint(trainings.paths.last)
    assert (last.graph_hash, last.weights[BIAS].item(), last.progress["epoch"]) == ("graph", -0.25, 2)


def test_a_gradient_is_clipped_by_its_norm_over_all_weights(trainings: Trainings) -> None:
    trainings(always(ONES, CORNER), epochs=1, **{**PLAIN, "clip_norm": 0.1}).run()
    assert trainings.backend.weights()[BIAS].item() == pytest.approx(-0.1 / math.sqrt(2))


def test_the_rate_grows_in_the_warm_up_and_the_rows_have_that_of_their_last_step(trainings: Trainings) -> None:
    data = always(ONES, CORNER, steps=3)
    trainings(data, data, epochs=2, learning_rate=0.8, warmup_steps=4).run()
    assert trainings.backend.rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
    assert [row["learning_rate"] for row in trainings.rows] == pytest.approx([0.6, 0.6, 0.8, 0.8])


def test_an_optimizers_own_rate_falls_by_steps_of_epochs(trainings: Trainings) -> None:
    data = always(ONES, CORNER, steps=2)
    trainings(data, epochs=2, optimizer="sgd", schedule="step", step_epochs=1).run()
    assert trainings.backend.rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3])


def test_patience_ends_a_training_early(trainings: Trainings) -> None:
    training = trainings(always(ONES, CORNER), epochs=9, patience=2, min_delta=10.0)  # nothing improves by 10
    training.run()
    assert (training.epochs_done, training.best_epoch) == (3, 1)
    assert read_checkpoint(trainings.paths.best).progress["epoch"] == 1


def test_the_best_checkpoint_is_of_the_best_epoch_of_what_is_watched(trainings: Trainings) -> None:
    """Trained towards no lesion, validated on lesion everywhere: each epoch is worse than the one before."""
    nothing, everything = always(ONES, np.zeros_like(ONES)), always(ONES, ONES)
    training = trainings(nothing, everything, epochs=3, monitor="validation_loss", **PLAIN)
    training.run()
    assert training.best_epoch == 1
    assert read_checkpoint(trainings.paths.best).weights[BIAS].item() == -0.5
    assert trainings.backend.weights()[BIAS].item() < -0.5
    losses = [row["loss"] for row in trainings.rows if row["subset"] == "validation"]
    assert losses == sorted(losses)


@pytest.mark.parametrize("stop_after", range(1, 11))  # two epochs of three steps and two of validation
def test_a_training_stopped_after_any_step_goes_on_exactly(tmp_path: Path, stop_after: int) -> None:
    whole, stopped = Trainings(tmp_path / "whole"), Trainings(tmp_path / "stopped")
    data = (Reader(3, drawn), Reader(2, lambda epoch, step: drawn(9, step)))
    whole(*data, epochs=2, monitor="validation_dice").run()
    with pytest.raises(Preempted):
        stopped(*data, Observer(stop_after), epochs=2, monitor="validation_dice").run()
    observer = Observer()
    stopped(*data, observer, epochs=2, monitor="validation_dice").run()
    epoch, within = divmod(stop_after - 1, 5)
    assert observer.passes[0] == (epoch + 1, "train", min(within + 1, 3))
    assert stopped.rows == whole.rows
    ends = [read_checkpoint(each.paths.last) for each in (stopped, whole)]
    for one, other in ((ends[0].weights, ends[1].weights), (ends[0].state, ends[1].state)):
        assert {key: each.tolist() for key, each in one.items()} == {key: each.tolist() for key, each in other.items()}


def test_a_killed_training_goes_on_from_its_last_periodic_checkpoint(tmp_path: Path) -> None:
    whole, killed = Trainings(tmp_path / "whole"), Trainings(tmp_path / "killed")
    data = (Reader(3, drawn), Reader(1, drawn))
    whole(*data, epochs=2).run()
    with pytest.raises(Killed):
        killed(*data, Observer(die_after=6), epochs=2, checkpoint_every_s=0.0).run()  # in step 2 of epoch 2
    assert read_checkpoint(killed.paths.last).progress["step"] == 1
    observer = Observer()
    killed(*data, observer, epochs=2).run()
    assert observer.passes == [(2, "train", 1), (2, "validation", 0)]
    assert killed.rows == whole.rows


def test_without_a_period_nothing_is_saved_within_an_epoch(trainings: Trainings) -> None:
    with pytest.raises(Killed):
        trainings(Reader(3, drawn), observer=Observer(die_after=3), epochs=1).run()
    assert not trainings.paths.last.exists()


def test_a_complete_training_does_nothing_more(trainings: Trainings) -> None:
    trainings(Reader(3, drawn), epochs=1).run()
    observer = Observer()
    assert trainings(Reader(3, drawn), observer=observer, epochs=1).run().epoch == 2
    assert observer.passes == []


def test_a_checkpoint_of_another_network_is_refused(trainings: Trainings) -> None:
    trainings(Reader(3, drawn), epochs=1).run()
    with pytest.raises(RunFolderError, match=r"last\.h5: made with another graph \(graph, this run: other\)"):
        trainings(Reader(3, drawn), epochs=1, graph_hash="other")


def test_a_loss_that_is_not_a_number_ends_the_training_in_one_line(trainings: Trainings) -> None:
    data = Reader(2, lambda epoch, step: (ONES * (math.nan if step else 1), CORNER))
    with pytest.raises(SuiteError, match=r"run: loss is nan in epoch 1, step 1; training diverged: lower `learning_ra"):
        trainings(data, epochs=1).run()


def test_a_number_in_a_mask_that_is_no_label_is_named_with_its_case(trainings: Trainings) -> None:
    with pytest.raises(ShardError, match=r"sub-01: 1 mask voxels hold 3, expected 0 \(background\), 1 \(lesion\)"):
        trainings(always(ONES, 3 * CORNER), epochs=1).run()


def test_a_collapse_is_told_once_and_once_more_when_the_training_comes_back(trainings: Trainings) -> None:
    """Weights are set by hand before each epoch: one finds the corner, three nothing, one the corner again."""
    kernels = [9.0, 0.0, 0.0, 0.0, 9.0]

    def make(epoch: int, step: int) -> tuple[FloatArray, FloatArray]:
        kernel = np.full((1, 1, 1, 1), kernels[epoch - 1], np.float32)
        trainings.backend.set_weights({KERNEL: kernel, BIAS: np.full(1, -1, np.float32)})
        return CORNER, CORNER

    trainings(Reader(1, make), epochs=5, **PLAIN).run()
    assert trainings.collapses == [Collapse("nothing", 2), None]


def test_the_phases_of_an_epoch_are_told_in_their_order(trainings: Trainings, tmp_path: Path) -> None:
    with EventWriter(tmp_path / "events.arrows", Identity("run")) as events:
        trainings(Reader(3, drawn), Reader(1, drawn), epochs=1, events=events).run()
    rows = read_stream(tmp_path / "events.arrows", EVENTS).select(["kind", "phase", "epoch"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        (kind, phase, 1) for phase in ("train", "validation", "checkpoint") for kind in ("begin", "end")
    ]
