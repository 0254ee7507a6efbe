"""Train one network on one backend: from shards to checkpoints and epoch rows in a run folder."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from jobs.resources import threads_for
from mspipeline.backends.base import Adam, Backend, Execution, Loss
from mspipeline.backends.certificate import covering, network_of, side_of, versions_of
from mspipeline.backends.registry import BACKENDS, adapter, availability, create
from mspipeline.config import TrainJob
from mspipeline.errors import BackendError, Interrupted, Preempted, RunFolderError, ShapeError
from mspipeline.models.catalogue import build
from mspipeline.network.cost import cost
from mspipeline.network.graph import Graph
from mspipeline.network.ops import Sigmoid
from mspipeline.network.weights import initial_weights
from mspipeline.provenance import provenance
from mspipeline.runs import CertificateNote, RunPaths, RunRecord, config_hash, read_record, run_id, write_record
from mspipeline.shards.manifest import Manifest, load_manifest
from mspipeline.shards.reader import ShardReader
from mspipeline.telemetry.events import EventWriter
from mspipeline.training.checkpoint import read_checkpoint
from mspipeline.training.loop import Identity, Observer, Stop, Training, monitor_of


def train(
    job: TrainJob,
    *,
    events: EventWriter,
    observer: Observer,
    stop: Stop,
    restart_count: int = 0,
    origin: dict[str, Any] | None = None,
) -> RunRecord:
    """Train, or go on with a training that was interrupted; one that is complete is left as it is.

    origin: where the code and its results come from, as `provenance` gives it; asked for where None.
    Raises RunFolderError where the run folder holds another run, BackendError where the backend is absent or cannot
    realise the network, which `run.json` then says, ShapeError where the shards' images do not fit it, and what `stop`
    gives.
    """
    manifest = load_manifest(job.shards)
    paths = RunPaths(job.run_folder)
    try:
        graph = graph_of(job, manifest)
    except BackendError as error:
        if job.cell and not paths.record.exists():
            _record_refusal(paths, job, manifest, origin or provenance(), str(error))
        raise
    record = _new_record(job, manifest, graph, restart_count, origin or provenance())
    if paths.record.exists():
        earlier = read_record(paths)
        if earlier.config_hash != record.config_hash:
            raise RunFolderError(
                f"{paths.root}: holds run {earlier.run_id}, of other data or settings than {record.run_id}; "
                "train into another folder"
            )
        if earlier.status == "complete":
            return earlier
        record = record.model_copy(update={"started_utc": earlier.started_utc})
    settings = job.training
    with (
        _reader(job, manifest, "train") as train_reader,
        _reader(job, manifest, "validation") as validation_reader,
    ):
        with events.phase("setup"):
            backend = _compiled(job, graph)
            record = record.model_copy(update={"device": backend.device, **_certified(job, graph, backend.device)})
            write_record(paths, record)
            training = Training(
                backend,
                train_reader,
                validation_reader if manifest.split.validation else None,
                settings,
                paths=paths,
                identity=Identity(record.run_id, graph.hash, record.config_hash, restart_count),
                events=events,
                observer=observer,
                stop=stop,
            )
            if paths.last.exists():
                training.resume(read_checkpoint(paths.last))
        try:
            training.run()
        except BaseException as error:
            stopped = isinstance(error, (Interrupted, Preempted, KeyboardInterrupt))
            _close_record(paths, record.model_copy(update={"status": "interrupted" if stopped else "failed"}), training)
            raise
    return _close_record(paths, record.model_copy(update={"status": "complete"}), training)


def _record_refusal(paths: RunPaths, job: TrainJob, manifest: Manifest, origin: dict[str, Any], problem: str) -> None:
    """`run.json` of a training that its backend refused: so that a comparison has a column that says so."""
    graph = build(job.model.name, manifest.image_shape, job.model.arguments)
    record = _new_record(job, manifest, graph, 0, origin)
    refused = {"status": "failed", "device": "", "problem": problem, "ended_utc": _now()}
    write_record(paths, record.model_copy(update=refused))


def _certified(job: TrainJob, graph: Graph, device: str) -> dict[str, Any]:
    """The fields of a record that say whether a certificate covers this backend, as it is here."""
    if job.certificates is None:
        return {}
    here = side_of(job.backend, versions_of(job.backend), device)
    found = covering(job.certificates, network_of(job.model, graph), here)
    notes = tuple(
        CertificateNote(
            sha256=each.sha256,
            reference=each.reference.backend,
            other=each.other.backend,
            same_graph=found.same_graph,
            image_shape=each.network.image_shape,
            worst=each.worst,
        )
        for each in found.certificates
    )
    return {"certificates": notes, "uncertified": found.problem}


def graph_of(job: TrainJob, manifest: Manifest) -> Graph:
    """The network of a job. Raises what `train` does where model, backend and shards do not fit together."""
    graph = build(job.model.name, manifest.image_shape, job.model.arguments)
    if not adapter(job.backend).trains:
        trainable = ", ".join(name for name in BACKENDS if adapter(name).trains)
        raise BackendError(f"{job.backend} predicts only; train on {trainable}")
    adapter(job.backend).check(graph)
    pixelwise = (*manifest.image_shape[:-1], 1)
    given = [graph[name].shape for name in graph.outputs]
    if given != [pixelwise] or not isinstance(graph[graph.outputs[0]].op, Sigmoid):
        raise ShapeError(
            f"{job.model.name}: gives {', '.join(map(str, given))}, but training on slices needs one sigmoid "
            f"probability a pixel, {pixelwise}; choose a network such as unet2d or double_unet"
        )
    if problem := availability(job.backend).problem:
        raise BackendError(problem)
    return graph


def _compiled(job: TrainJob, graph: Graph) -> Backend:
    """The backend with the network in it, initial weights set, ready to train."""
    backend = create(job.backend)
    threads = threads_for(job.threads)
    backend.build(graph, Execution(device=job.device, threads=threads, seed=job.seed, memory=job.memory))
    backend.set_weights(initial_weights(graph, job.seed))
    settings = job.training
    optimiser = Adam(settings.learning_rate, settings.beta1, settings.beta2, settings.epsilon)
    backend.compile(Loss(settings.loss), optimiser)
    return backend


def _reader(job: TrainJob, manifest: Manifest, subset: str) -> ShardReader:
    training = subset == "train"
    entries = manifest.subset("train" if training else "validation")
    if training and not entries:
        raise RunFolderError(f"{job.shards}: the split has no training cases; prepare with another split")
    return ShardReader(job.shards, entries, batch_size=job.training.batch_size, seed=job.seed, shuffle=training)


def _new_record(
    job: TrainJob, manifest: Manifest, graph: Graph, restart_count: int, origin: dict[str, Any]
) -> RunRecord:
    costs = cost(graph)
    return RunRecord(
        run_id=run_id(job, manifest),
        status="running",
        campaign=job.campaign,
        cell=job.cell,
        model=job.model.name,
        model_arguments=dict(job.model.arguments),
        backend=job.backend,
        backend_version=availability(job.backend).version or "",
        device=job.device,
        memory=job.memory,
        seed=job.seed,
        threads=threads_for(job.threads),
        started_utc=_now(),
        restart_count=restart_count,
        monitor=monitor_of(job.training, has_validation=bool(manifest.split.validation)),
        threshold=job.training.threshold,
        trainable_parameters=costs.trainable,
        non_trainable_parameters=costs.non_trainable,
        macs=costs.macs,
        graph_hash=graph.hash,
        dataset_hash=manifest.dataset_hash,
        split_hash=manifest.split_hash,
        recipe_hash=manifest.recipe_hash,
        recipe=manifest.recipe,
        config_hash=config_hash(job, manifest),
        provenance=origin,
    )


def _close_record(paths: RunPaths, record: RunRecord, training: Training) -> RunRecord:
    """`run.json` as this attempt leaves it."""
    progress = training.progress
    closed = record.model_copy(
        update={"ended_utc": _now(), "epochs": progress.epoch - 1, "best_epoch": progress.best_epoch}
    )
    write_record(paths, closed)
    return closed


def _now() -> str:
    return datetime.now(UTC).isoformat()
