"""The training loop: epochs, validation, early stopping, checkpoints, exact resume. Knows no framework.

A training that is stopped at any step and run again gives the weights and rows of one that was never stopped, where the
backend's own arithmetic is reproducible.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mspipeline.backends.base import Backend, StepResult
from mspipeline.backends.process_group import ALONE, ProcessGroup
from mspipeline.channels import ONE_PROBABILITY, Channels, FloatArray, label_map
from mspipeline.config import TrainingSettings
from mspipeline.errors import RunFolderError, SuiteError
from mspipeline.losses import Loss
from mspipeline.optimizers import learning_rate
from mspipeline.runs import RunPaths, utc_now, write_rows
from mspipeline.tables.schema import EPOCHS
from mspipeline.telemetry.events import EventWriter
from mspipeline.training.checkpoint import Checkpoint, write_checkpoint
from mspipeline.training.collapse import Collapse
from mspipeline.training.data_parallel import DataParallel
from mspipeline.training.pass_totals import PassTotals
from mspipeline.training.progress import Progress, RunIdentity, TrainingStage, checkpoint_paths, is_over, monitored
from mspipeline.training.protocols import Batch, BatchReader, Observer, Stop
from mspipeline.training.scores import EpochScores

log = logging.getLogger(__name__)


class Training:
    """One training of a compiled backend on readers of its subsets; `run` does it.

    validation: None where there is nothing to validate on. channels: of the network's output. stage: None of a
    network that is no cascade's.
    loss: what the backend was compiled with. monitor: what the best checkpoint is chosen by, see `monitor_of`.
    on_collapse: called when a training has collapsed, and with None when it has come back.
    checkpoint_every_s: seconds of work that a kill may cost, beside the checkpoint after each epoch.
    group: the processes that train it together; each is given the same readers, and rank 0 alone writes.
    """

    def __init__(
        self,
        backend: Backend,
        train: BatchReader,
        validation: BatchReader | None,
        settings: TrainingSettings,
        *,
        paths: RunPaths,
        identity: RunIdentity,
        events: EventWriter,
        observer: Observer,
        stop: Stop,
        loss: Loss,
        monitor: str,
        on_collapse: Callable[[Collapse | None], None] = lambda collapse: None,
        channels: Channels = ONE_PROBABILITY,
        stage: TrainingStage | None = None,
        checkpoint_every_s: float = math.inf,
        group: ProcessGroup = ALONE,
    ) -> None:
        self._backend, self._train, self._validation, self._settings = backend, train, validation, settings
        self._paths, self._identity, self._events = paths, identity, events
        self._observer, self._stop, self._channels, self._stage = observer, stop, channels, stage
        self._best, self.last = checkpoint_paths(paths, stage)
        self._loss, self.monitor, self._on_collapse = loss, monitor, on_collapse
        self._optimizer, self._schedule = settings.chosen_optimizer, settings.chosen_schedule
        self.progress = Progress()
        self.parallel = DataParallel(backend, group)
        self._checkpoint_every_s, self._saved, self._saved_steps = checkpoint_every_s, time.monotonic(), 0

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of this very run. Raises RunFolderError where it is another's."""
        for ours, theirs, what in (
            (self._identity.graph_hash, checkpoint.graph_hash, "graph"),
            (self._identity.config_hash, checkpoint.config_hash, "configuration"),
        ):
            if ours != theirs:
                raise RunFolderError(
                    f"{self.last}: made with another {what} ({theirs[:12]}, this run: {ours[:12]}); "
                    "train into another folder"
                )
        self._backend.set_weights(checkpoint.weights)
        self._backend.set_state(checkpoint.state)
        self.progress = Progress.from_json(checkpoint.progress)
        self._saved_steps = self.progress.steps_total

    def run(self) -> Progress:
        """Train until the last epoch or until patience ends. Raises the error that `stop` returns, the state saved."""
        settings, progress = self._settings, self.progress
        self.parallel.check_same_place((progress.epoch, progress.step), self._identity.config_hash)
        while not is_over(self.progress, settings):
            row, totals = self._train_epoch()
            rows = [row]
            if self._validation is not None:
                row, validated = self._validate(self._validation)
                rows.append(row)
                totals = validated if validated.lesions else totals
            self._finish_epoch(rows, totals)
        return self.progress

    @property
    def epochs_done(self) -> int:
        """Finished epochs, those of earlier stages included."""
        return self._epoch - 1

    @property
    def best_epoch(self) -> int | None:
        """The epoch of the best checkpoint, counted through all stages."""
        best, before = self.progress.best_epoch, self._epoch - self.progress.epoch
        return None if best is None else best + before

    @property
    def collapse(self) -> Collapse | None:
        """How the training ended, or stands after its last finished epoch, if that is a collapse; an earlier stage's,
        where one ended so."""
        before = None if self._stage is None else self._stage.collapse_before
        return before or self._collapse()

    def _collapse(self) -> Collapse | None:
        progress, over = self.progress, is_over(self.progress, self._settings)
        return progress.predictions.collapse(self.epochs_done, self._settings.epochs, over=over)

    @property
    def _rate(self) -> float:
        """The learning rate of the step that comes next, or of the last one of an epoch that is trained."""
        settings, steps = self._settings, self._train.steps
        return learning_rate(
            self._optimizer.learning_rate,
            min(self.progress.steps_total, self.progress.epoch * steps - 1),
            settings.epochs * steps,
            warmup_steps=settings.warmup_steps,
            schedule=self._schedule,
            epoch_steps=steps,
        )

    @property
    def _epoch(self) -> int:
        """The epoch under way, counted through all stages."""
        return self.progress.epoch + (0 if self._stage is None else self._stage.epochs_before)

    @property
    def _epochs(self) -> int:
        return self._settings.epochs + (0 if self._stage is None else self._stage.epochs_before)

    def _train_epoch(self) -> tuple[dict[str, Any], PassTotals]:
        progress, reader = self.progress, self._train
        scores = self._new_scores(reader)
        if progress.scores is not None:
            scores.restore(self.parallel.local_part(progress.scores))
        self._observer.epoch_begins(self._epoch, self._epochs, "train", reader.steps, progress.step)
        began = time.perf_counter() - progress.seconds
        with self._events.phase("train", self._epoch):
            batches = reader.epoch(progress.epoch, first_step=progress.step)
            for batch in batches:
                self._step(partial(self._backend.train_step, rate=self._rate), reader, batch, scores, began)
                progress.step += 1
                progress.steps_total += 1
                error, due = self.parallel.agree_on_stop(self._stop(), self._due())
                if error or due:
                    progress.seconds = time.perf_counter() - began
                    progress.scores = self.parallel.gather(scores.to_json())
                    self._save_last()
                if error:
                    raise error
        # From here on the epoch's steps are done: a stop during validation comes back to validation alone.
        progress.seconds = time.perf_counter() - began
        progress.scores = self.parallel.gather(scores.to_json())
        return self._row("train", scores, progress.seconds, self.parallel.total(progress.scores))

    def _validate(self, reader: BatchReader) -> tuple[dict[str, Any], PassTotals]:
        progress = self.progress
        scores = self._new_scores(reader)
        self._observer.epoch_begins(self._epoch, self._epochs, "validation", reader.steps, 0)
        began = time.perf_counter()
        with self._events.phase("validation", self._epoch):
            for batch in reader.epoch(progress.epoch):
                self._step(self._backend.evaluate_step, reader, batch, scores, began)
                error, due = self.parallel.agree_on_stop(self._stop(), self._due())
                if error or due:
                    self._save_last()
                if error:
                    raise error
        totals = self.parallel.total(self.parallel.gather(scores.to_json()))
        return self._row("validation", scores, time.perf_counter() - began, totals)

    def _new_scores(self, reader: BatchReader) -> _PassScores:
        threshold = self._settings.threshold
        return _PassScores(
            EpochScores(len(reader.case_ids), threshold, self._channels.labels), PassTotals(self._loss, threshold)
        )

    def _step(
        self, step: Callable[..., StepResult], reader: BatchReader, batch: Batch, scores: _PassScores, began: float
    ) -> None:
        cases = ", ".join(reader.case_ids[number] for number in np.unique(batch.cases))
        self._channels.labels.check(batch.masks, where=cases)
        share = self.parallel.share(batch.images, batch.masks, batch.cases)
        result = step(share.images, self._channels.targets(share.masks), replicated=share.replicated)
        if not math.isfinite(result.loss):
            raise SuiteError(
                f"{self._paths.root}: loss is {result.loss} in epoch {self._epoch}, step {self.progress.step}; "
                "training diverged: lower `learning_rate`"
            )
        if self.parallel.writes or not share.replicated:
            probabilities = self._channels.probabilities(result.probability)
            scores.cases.add(share.cases, share.masks, probabilities, result.loss)
            truth, found = self._as_one(share.masks[..., 0], probabilities)
            joint = (lambda sums: sums) if share.replicated else self.parallel.sum
            scores.totals.add(truth, found, result.loss, joint=joint)
        seconds = max(time.perf_counter() - began, 1e-9)
        # Of this process's shares: what all have is exchanged at the end of a pass.
        images_per_second = self.parallel.size * scores.cases.images / seconds
        self._observer.step_done(scores.totals.loss, scores.cases.running_dice, images_per_second)

    def _as_one(self, masks: FloatArray, probabilities: Mapping[str, FloatArray]) -> tuple[FloatArray, FloatArray]:
        """Where any label is, and its probability; of several labels, 1 where one of them is predicted, else 0."""
        labels = self._channels.labels
        if len(labels.foreground) == 1:
            return masks, probabilities[labels.foreground[0]]
        predicted = label_map(labels, probabilities, threshold=self._settings.threshold)
        return (masks > 0).astype(np.float32), (predicted > 0).astype(np.float32)

    def _row(
        self, subset: str, scores: _PassScores, seconds: float, sums: dict[str, Any]
    ) -> tuple[dict[str, Any], PassTotals]:
        """The row of a pass. sums: of all processes."""
        scores.restore(sums)
        row = {
            "run_id": self._identity.run_id,
            "restart_count": self._identity.restart_count,
            "time_utc": utc_now(),
            "epoch": self._epoch,
            "stage": None if self._stage is None else self._stage.number,
            "subset": subset,
            "steps_total": self.progress.steps_total,
            "seconds": seconds,
            "images_per_second": scores.cases.images / max(seconds, 1e-9),
            "learning_rate": self._rate,
            **scores.cases.summary(),
            "loss": scores.totals.loss,
        }
        return row, scores.totals

    def _finish_epoch(self, rows: list[dict[str, Any]], totals: PassTotals) -> None:
        """Rows, best and last checkpoint; the next epoch begins only when all of it is on the disk."""
        progress, settings = self.progress, self._settings
        progress.rows.extend(rows)
        value, best = monitored(self.monitor, rows), progress.best_value
        sign = 1 if self.monitor.endswith("dice") else -1
        if not math.isnan(value) and (best is None or sign * (value - best) > settings.min_delta):
            progress.best_value, progress.best_epoch, progress.epochs_without_improvement = value, progress.epoch, 0
        else:
            progress.epochs_without_improvement += 1
        finished, before = self._epoch, self._collapse()
        progress.predictions = progress.predictions.after(finished, totals.everywhere)
        with self._events.phase("checkpoint", finished):
            if progress.best_epoch in (
                progress.epoch,
                None,
            ):  # until a score is defined, the newest weights are the best
                self._write(self._best, self._checkpoint(weights_only=True))
            progress.epoch += 1
            progress.step, progress.seconds, progress.scores = 0, 0.0, None
            self._save_last()
        log.info("epoch done run=%s epoch=%d monitor=%s value=%s", self._identity.run_id, finished, self.monitor, value)
        self._observer.epoch_ended(finished, self._epochs, rows)
        self._say_collapse(before)

    def _say_collapse(self, before: Collapse | None) -> None:
        now = self._collapse()
        if now == before:
            return
        if now is not None:
            log.warning("training collapsed run=%s predicts=%s epoch=%d", self._identity.run_id, now.to, now.epoch)
        self._on_collapse(self.collapse)

    def _due(self) -> bool:
        """Whether a periodic checkpoint is due: so much may be lost with a process that is killed or a dead node."""
        due = time.monotonic() - self._saved >= self._checkpoint_every_s
        return due and self.progress.steps_total > self._saved_steps

    def _write(self, path: Path, checkpoint: Checkpoint) -> None:
        if self.parallel.writes:
            write_checkpoint(path, checkpoint)

    def _save_last(self) -> None:
        last = self._checkpoint(weights_only=False)
        before = () if self._stage is None else self._stage.rows_before
        self._write(self.last, last)
        if self.parallel.writes:
            write_rows(self._paths.epochs, [_arrow_row(row) for row in (*before, *self.progress.rows)], EPOCHS)
        self._saved, self._saved_steps = time.monotonic(), self.progress.steps_total

    def _checkpoint(self, *, weights_only: bool) -> Checkpoint:
        return Checkpoint(
            self._identity.graph_hash,
            self._identity.config_hash,
            self._backend.weights(),
            {} if weights_only else self._backend.state(),
            {"epoch": self.progress.epoch} if weights_only else dataclasses.asdict(self.progress),
        )


@dataclass(frozen=True)
class _PassScores:
    """The scores of a pass: of its cases, and what is added up over all of it."""

    cases: EpochScores
    totals: PassTotals

    def to_json(self) -> dict[str, Any]:
        """Plain data from which `restore` goes on exactly."""
        return {**self.cases.to_json(), **self.totals.to_json()}

    def restore(self, document: dict[str, Any]) -> None:
        """Go on from what `to_json` gave."""
        self.cases.restore(document)
        self.totals.restore(document)


def _arrow_row(row: dict[str, Any]) -> dict[str, Any]:
    """Rows are kept as JSON in checkpoints: times come back from text."""
    return {**row, "time_utc": datetime.fromisoformat(row["time_utc"])}
