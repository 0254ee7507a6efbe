"""The training loop: epochs, validation, early stopping, checkpoints, exact resume. Knows no framework.

A training that is stopped at any step and run again gives the weights and rows of one that was never stopped, where the
backend's own arithmetic is reproducible.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from mspipeline.backends.base import Backend, StepResult
from mspipeline.config import TrainingSettings
from mspipeline.errors import RunFolderError, SuiteError
from mspipeline.runs import RunPaths, write_rows
from mspipeline.shards.reader import Batch, ShardReader
from mspipeline.telemetry.events import EventWriter
from mspipeline.telemetry.schema import EPOCHS
from mspipeline.training.checkpoint import Checkpoint, write_checkpoint
from mspipeline.training.scores import EpochScores

log = logging.getLogger(__name__)

Stop = Callable[[], SuiteError | None]
"""Asked between steps: the error to end with once the state is saved, or None to go on."""


class Observer(Protocol):
    """What watches a training, e.g. a progress bar."""

    def epoch_begins(self, epoch: int, epochs: int, subset: str, steps: int, step: int) -> None:
        """`step` of `steps` are done already (a resumed epoch)."""

    def step_done(self, loss: float, dice: float, images_per_second: float) -> None:
        """Loss and Dice of the pass so far."""

    def epoch_ended(self, epoch: int, epochs: int, rows: list[dict[str, Any]]) -> None:
        """The epoch's rows: training, and validation where there is any."""


@dataclass(frozen=True)
class Identity:
    """What ties checkpoints and rows to one run."""

    run_id: str
    graph_hash: str
    config_hash: str
    restart_count: int


@dataclass
class Progress:
    """Where a training is. epoch: counted from 1, the one under way; step: optimiser steps done in it."""

    epoch: int = 1
    step: int = 0
    steps_total: int = 0
    seconds: float = 0.0
    best_epoch: int | None = None
    best_value: float | None = None
    epochs_without_improvement: int = 0
    scores: dict[str, Any] | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)


class Training:
    """One training of a compiled backend on readers of its subsets; `run` does it.

    validation: None where the split has no validation cases.
    """

    def __init__(
        self,
        backend: Backend,
        train: ShardReader,
        validation: ShardReader | None,
        settings: TrainingSettings,
        *,
        paths: RunPaths,
        identity: Identity,
        events: EventWriter,
        observer: Observer,
        stop: Stop,
    ) -> None:
        self._backend, self._train, self._validation, self._settings = backend, train, validation, settings
        self._paths, self._identity, self._events = paths, identity, events
        self._observer, self._stop = observer, stop
        self.monitor = monitor_of(settings, has_validation=validation is not None)
        self.progress = Progress()

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of this very run. Raises RunFolderError where it is another's."""
        for ours, theirs, what in (
            (self._identity.graph_hash, checkpoint.graph_hash, "graph"),
            (self._identity.config_hash, checkpoint.config_hash, "configuration"),
        ):
            if ours != theirs:
                raise RunFolderError(
                    f"{self._paths.last}: made with another {what} ({theirs[:12]}, this run: {ours[:12]}); "
                    "train into another folder"
                )
        self._backend.set_weights(checkpoint.weights)
        self._backend.set_state(checkpoint.state)
        self.progress = Progress(**checkpoint.progress)

    def run(self) -> Progress:
        """Train until the last epoch or until patience ends. Raises what `stop` gives, the state saved before."""
        settings = self._settings
        while self.progress.epoch <= settings.epochs and not self._out_of_patience():
            rows = [self._train_epoch()]
            if self._validation is not None:
                rows.append(self._validate(self._validation))
            self._finish_epoch(rows)
        return self.progress

    def _out_of_patience(self) -> bool:
        patience = self._settings.patience
        return patience > 0 and self.progress.epochs_without_improvement >= patience

    def _train_epoch(self) -> dict[str, Any]:
        progress, reader = self.progress, self._train
        scores = EpochScores(len(reader.case_ids), self._settings.threshold)
        if progress.scores is not None:
            scores.restore(progress.scores)
        self._observer.epoch_begins(progress.epoch, self._settings.epochs, "train", reader.steps, progress.step)
        began = time.perf_counter() - progress.seconds
        with self._events.phase("train", progress.epoch):
            batches = reader.epoch(progress.epoch, first_step=progress.step)
            for batch in batches:
                self._step(self._backend.train_step, batch, scores, began)
                progress.step += 1
                progress.steps_total += 1
                if error := self._stop():
                    progress.seconds = time.perf_counter() - began
                    progress.scores = scores.to_json()
                    self._save_last()
                    raise error
        # From here on the epoch's steps are done: a stop during validation comes back to validation alone.
        progress.seconds = time.perf_counter() - began
        progress.scores = scores.to_json()
        return self._row("train", scores, progress.seconds)

    def _validate(self, reader: ShardReader) -> dict[str, Any]:
        progress = self.progress
        scores = EpochScores(len(reader.case_ids), self._settings.threshold)
        self._observer.epoch_begins(progress.epoch, self._settings.epochs, "validation", reader.steps, 0)
        began = time.perf_counter()
        with self._events.phase("validation", progress.epoch):
            for batch in reader.epoch(progress.epoch):
                self._step(self._backend.evaluate_step, batch, scores, began)
                if error := self._stop():
                    self._save_last()
                    raise error
        return self._row("validation", scores, time.perf_counter() - began)

    def _step(self, step: Callable[..., StepResult], batch: Batch, scores: EpochScores, began: float) -> None:
        result = step(batch.images, batch.masks)
        if not math.isfinite(result.loss):
            raise SuiteError(
                f"{self._paths.root}: loss is {result.loss} in epoch {self.progress.epoch}, step {self.progress.step}; "
                "training diverged: lower `learning_rate`"
            )
        scores.add(batch.cases, batch.masks, result.probability, result.loss)
        seconds = max(time.perf_counter() - began, 1e-9)
        self._observer.step_done(scores.running_loss, scores.running_dice, scores.images / seconds)

    def _row(self, subset: str, scores: EpochScores, seconds: float) -> dict[str, Any]:
        return {
            "run_id": self._identity.run_id,
            "restart_count": self._identity.restart_count,
            "time_utc": datetime.now(UTC).isoformat(),
            "epoch": self.progress.epoch,
            "subset": subset,
            "steps_total": self.progress.steps_total,
            "seconds": seconds,
            "images_per_second": scores.images / max(seconds, 1e-9),
            "learning_rate": self._settings.learning_rate,
            **scores.summary(),
        }

    def _finish_epoch(self, rows: list[dict[str, Any]]) -> None:
        """Rows, best and last checkpoint; the next epoch begins only when all of it is on the disk."""
        progress, settings = self.progress, self._settings
        progress.rows.extend(rows)
        value, best = monitored(self.monitor, rows), progress.best_value
        sign = 1 if self.monitor.endswith("dice") else -1
        if not math.isnan(value) and (best is None or sign * (value - best) > settings.min_delta):
            progress.best_value, progress.best_epoch, progress.epochs_without_improvement = value, progress.epoch, 0
        else:
            progress.epochs_without_improvement += 1
        with self._events.phase("checkpoint", progress.epoch):
            if progress.best_epoch in (
                progress.epoch,
                None,
            ):  # until a score is defined, the newest weights are the best
                write_checkpoint(self._paths.best, self._checkpoint(weights_only=True))
            finished, progress.epoch = progress.epoch, progress.epoch + 1
            progress.step, progress.seconds, progress.scores = 0, 0.0, None
            self._save_last()
        log.info("epoch done run=%s epoch=%d monitor=%s value=%s", self._identity.run_id, finished, self.monitor, value)
        self._observer.epoch_ended(finished, settings.epochs, rows)

    def _save_last(self) -> None:
        write_checkpoint(self._paths.last, self._checkpoint(weights_only=False))
        write_rows(self._paths.epochs, [_arrow_row(row) for row in self.progress.rows], EPOCHS)

    def _checkpoint(self, *, weights_only: bool) -> Checkpoint:
        return Checkpoint(
            self._identity.graph_hash,
            self._identity.config_hash,
            self._backend.weights(),
            {} if weights_only else self._backend.state(),
            {"epoch": self.progress.epoch} if weights_only else dataclasses.asdict(self.progress),
        )


def monitor_of(settings: TrainingSettings, *, has_validation: bool) -> str:
    """What early stopping and the best checkpoint watch.

    Raises RunFolderError where validation is asked for and the split has no validation cases.
    """
    if settings.monitor == "auto":
        return "validation_loss" if has_validation else "train_loss"
    if settings.monitor.startswith("validation") and not has_validation:
        raise RunFolderError(
            f"monitor {settings.monitor!r} needs validation cases and the shards' split has none; "
            "use monitor = 'train_loss', or prepare more cases"
        )
    return settings.monitor


def monitored(monitor: str, rows: list[dict[str, Any]]) -> float:
    """The watched value of an epoch's rows."""
    subset, _, score = monitor.partition("_")
    return float(next(row[score] for row in rows if row["subset"] == subset))


def _arrow_row(row: dict[str, Any]) -> dict[str, Any]:
    """Rows are kept as JSON in checkpoints: times come back from text."""
    return {**row, "time_utc": datetime.fromisoformat(row["time_utc"])}
