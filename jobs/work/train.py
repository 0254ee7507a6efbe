"""Train one network on one backend: from shards to checkpoints and epoch rows in a run folder."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np

from mspipeline.backends.base import Backend, Execution
from mspipeline.backends.process_group import ALONE, PeersLost, ProcessGroup
from mspipeline.backends.registry import BACKENDS, adapter, availability, create
from mspipeline.channels import Channels, channels_of
from mspipeline.config import TrainJob
from mspipeline.console import say_warning
from mspipeline.errors import BackendError, ConfigError, Interrupted, Preempted, RunFolderError, ShardError
from mspipeline.jobs.work.resources import threads_for
from mspipeline.jobs.work.run_record import certified, new_record, record_refusal
from mspipeline.labels import LabelSet
from mspipeline.losses import Loss
from mspipeline.models.catalogue import build
from mspipeline.models.stored import keep_graph
from mspipeline.network.graph import Graph
from mspipeline.network.weights import begin_at, initial_weights
from mspipeline.provenance import provenance
from mspipeline.recipes.catalogue import AnyRecipe, recipe_of
from mspipeline.recipes.training import TrainingRun
from mspipeline.runs import (
    RunPaths,
    RunRecord,
    Status,
    read_record,
    utc_now,
    write_record,
)
from mspipeline.shards.manifest import load_manifest, missing_labels
from mspipeline.telemetry.events import EventWriter
from mspipeline.training.checkpoint import read_checkpoint
from mspipeline.training.collapse import Collapse
from mspipeline.training.loop import Training
from mspipeline.training.progress import RunIdentity, TrainingStage
from mspipeline.training.protocols import BatchReader, Observer, Stop
from mspipeline.training.targets import loss_of

FIRST_PROBABILITY = 0.01
"""What a network that is trained by `bce_dice` gives at first; those of other losses begin as drawn, most near 1/2."""


def train(
    job: TrainJob,
    *,
    events: EventWriter,
    observer: Observer,
    stop: Stop,
    restart_count: int = 0,
    origin: dict[str, Any] | None = None,
    group: ProcessGroup = ALONE,
) -> RunRecord:
    """Train, or go on with a training that was interrupted; one that is complete is left as it is.

    origin: where the code and its results come from, as `provenance` gives it; asked for where None.
    group: the processes that train together; all of them call this with the same job, and rank 0 writes.
    Raises RunFolderError where the run folder holds another run, BackendError where the backend is absent or cannot
    realise the network, which `run.json` then says, ShapeError where the shards' images or labels do not fit it,
    ShardError where no training case has one of the labels, and what `stop` gives.
    """
    manifest = load_manifest(job.shards)
    recipe = recipe_of(manifest.recipe, where=f"{job.shards}: recipe")
    labels = manifest.label_set
    recipe.check_labels(labels, where=str(job.shards))
    if missing := missing_labels(manifest):
        raise ShardError(
            f"{job.shards}: no training case has {', '.join(missing)}, so there is nothing to learn it from; prepare "
            "the scans with another split, or leave it out of the layout's label set"
        )
    paths = RunPaths(job.run_folder)
    try:
        graph = graph_of(job, recipe, labels)
    except BackendError as error:
        if job.cell and group.rank == 0 and not paths.record.exists():
            record_refusal(paths, job, manifest, recipe, origin or provenance(), str(error))
        raise
    record = new_record(job, manifest, recipe, graph, restart_count, origin or provenance())
    if paths.record.exists():
        earlier = read_record(paths)
        if earlier.config_hash != record.config_hash:
            raise RunFolderError(
                f"{paths.root}: holds run {earlier.run_id}, of other data or settings than {record.run_id}; "
                "train into another folder"
            )
        if earlier.graph_hash and earlier.graph_hash != graph.hash:
            raise RunFolderError(
                f"{paths.root}: holds a run of another network than {job.model.name} is now; train into another folder"
            )
        if earlier.status == "complete":
            return earlier
        record = record.model_copy(update={"started_utc": earlier.started_utc})
    if group.rank == 0:
        keep_graph(paths.root, job.model.name, graph)
    channels = channels_of(graph, recipe.mask_shape, labels)
    attempt = _Attempt(job, channels, graph, paths, record, events, observer, stop, group)
    run = TrainingRun(
        job,
        manifest,
        graph,
        paths,
        record.config_hash,
        threads_for(job.threads),
        attempt.begin,
        events,
        observer,
        stop,
    )
    try:
        complete = recipe.train(run)
    except BaseException as error:
        stopped = isinstance(error, (Interrupted, Preempted, KeyboardInterrupt))
        attempt.close("interrupted" if stopped else "failed")
        if isinstance(error, (Interrupted, Preempted)):
            attempt.wait_for_others()
        raise
    closed = attempt.close("complete" if complete else "interrupted")
    attempt.wait_for_others()
    return closed


class _Attempt:
    """One attempt at a training: makes networks ready to be trained, and keeps the run's record."""

    def __init__(
        self,
        job: TrainJob,
        channels: Channels,
        graph: Graph,
        paths: RunPaths,
        record: RunRecord,
        events: EventWriter,
        observer: Observer,
        stop: Stop,
        group: ProcessGroup,
    ) -> None:
        self.group = group
        self.job, self.channels, self.graph, self.paths = job, channels, graph, paths
        self.record, self.events, self.observer, self.stop = record, events, observer, stop
        self.training: Training | None = None

    def begin(self, train: BatchReader, validation: BatchReader | None, stage: TrainingStage | None = None) -> Training:
        """A training that is ready to run: initial weights set, or those of the checkpoint to go on from."""
        job, graph, channels, record = self.job, self.graph, self.channels, self.record
        with self.events.phase("setup"):
            backend = _compiled(job, graph, channels, stage, self.group)
            update = {"device": backend.device, **certified(job, graph, backend.device)}
            self.record = record = record.model_copy(update=update)
            self._write()
            self.training = Training(
                backend,
                train,
                validation,
                job.training,
                paths=self.paths,
                identity=RunIdentity(record.run_id, graph.hash, record.config_hash, record.restart_count),
                events=self.events,
                observer=self.observer,
                stop=self.stop,
                loss=_loss(job, channels),
                monitor=record.monitor,
                on_collapse=self._tell_collapse,
                channels=channels,
                stage=stage,
                checkpoint_every_s=job.checkpoint_every_s,
                group=self.group,
            )
            if self.training.last.exists():
                self.training.resume(read_checkpoint(self.training.last))
        return self.training

    def close(self, status: Status) -> RunRecord:
        """`run.json` as this attempt leaves it; one that did not begin leaves it as it was."""
        if self.training is None:
            return self.record
        update = {"status": status, "ended_utc": utc_now(), "epochs": self.training.epochs_done}
        update |= {"best_epoch": self.training.best_epoch, **_collapse_fields(self.training.collapse)}
        self.record = self.record.model_copy(update=update)
        self._write()
        return self.record

    def _tell_collapse(self, collapse: Collapse | None) -> None:
        """Say it at once, in a line and in `run.json`; None: the training has come back."""
        self.record = self.record.model_copy(update=_collapse_fields(collapse))
        self._write()
        if self.group.rank == 0 and collapse is not None:
            say_warning(
                f"{self.paths.root}: the training has collapsed: since epoch {collapse.epoch} it predicts "
                f"{collapse.to}; lower learning_rate, raise warmup_steps, or use loss = 'bce_dice'"
            )

    def _write(self) -> None:
        """`run.json`, once for all processes."""
        if self.group.rank == 0:
            write_record(self.paths, self.record)

    def wait_for_others(self) -> None:
        """Leave no process before all is on the disk: a scheduler may end the rest when the first has left."""
        if self.training is not None:
            with suppress(PeersLost):
                self.training.parallel.barrier()


def graph_of(job: TrainJob, recipe: AnyRecipe, labels: LabelSet) -> Graph:
    """The network of a job. Raises what `train` does where model, backend and shards do not fit together."""
    recipe.check_training(job.training)
    graph = build(job.model.name, recipe.image_shape, job.model.arguments)
    if not adapter(job.backend).can_train:
        trainable = ", ".join(name for name in BACKENDS.working() if adapter(name).can_train)
        raise BackendError(f"{job.backend} predicts only; train on {trainable}")
    adapter(job.backend).check(graph)
    _loss(job, channels_of(graph, recipe.mask_shape, labels))
    if job.processes > 1:
        _check_processes(job, recipe)
    if problem := availability(job.backend).problem:
        raise BackendError(problem)
    return graph


def _check_processes(job: TrainJob, recipe: AnyRecipe) -> None:
    """Raise what says why these processes cannot train together."""
    batch_size, processes = job.training.batch_size or recipe.batch_size, job.processes
    if not adapter(job.backend).supports_data_parallel:
        joining = ", ".join(name for name in BACKENDS.working() if adapter(name).supports_data_parallel)
        raise BackendError(f"{job.backend} trains in one process, not {processes}; choose one of {joining}")
    if not recipe.supports_data_parallel:
        raise ConfigError(
            f"{job.shards}: networks on shards of {recipe.kind} are trained by one process, not {processes}"
        )
    if batch_size % processes:
        nearest = batch_size + processes - batch_size % processes
        raise ConfigError(
            f"batch_size {batch_size} cannot be shared out evenly to {processes} processes; "
            f"choose a multiple, such as {nearest}"
        )


def _collapse_fields(collapse: Collapse | None) -> dict[str, Any]:
    """The fields of `run.json` on a training that has collapsed, or not."""
    return {
        "collapsed": collapse is not None,
        "collapsed_to": None if collapse is None else collapse.to,
        "collapsed_epoch": None if collapse is None else collapse.epoch,
    }


def _loss(job: TrainJob, channels: Channels) -> Loss:
    return loss_of(job.training, len(channels.names))


def _compiled(
    job: TrainJob, graph: Graph, channels: Channels, stage: TrainingStage | None, group: ProcessGroup
) -> Backend:
    """The backend with the network in it, initial weights set, ready to train. channels: of its output."""
    backend = create(job.backend)
    threads = threads_for(job.threads)
    execution = Execution(device=job.device, threads=threads, seed=job.seed, memory=job.memory, group=group)
    backend.build(graph, execution)
    loss, weights = _loss(job, channels), initial_weights(graph, seed_of(job.seed, stage))
    backend.set_weights(begin_at(graph, weights, FIRST_PROBABILITY) if loss.name == "bce_dice" else weights)
    backend.compile(loss, job.training.chosen_optimizer)
    return backend


def seed_of(seed: int, stage: TrainingStage | None) -> int:
    """The seed of a stage's initial weights: a cascade's later stages do not begin as an earlier one did."""
    if stage is None or stage.number == 1:
        return seed
    return int(np.random.SeedSequence([seed, stage.number]).generate_state(1)[0])
