"""`run.json` of a training: what is known before it begins, what certifies it, and why it could not begin."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from mspipeline.backends.certification.certificate import covering, network_of, side_of, versions_of
from mspipeline.backends.registry import availability
from mspipeline.config import TrainJob
from mspipeline.jobs.resources import threads_for
from mspipeline.models.catalogue import build
from mspipeline.network.cost import cost
from mspipeline.network.graph import Graph
from mspipeline.runs import CascadeSettings, CertificateNote, RunPaths, RunRecord, config_hash, run_id, write_record
from mspipeline.shards.manifest import Manifest
from mspipeline.training.progress import monitor_of


def record_refusal(paths: RunPaths, job: TrainJob, manifest: Manifest, origin: dict[str, Any], problem: str) -> None:
    """`run.json` of a training that its backend refused: so that a comparison has a column that says so."""
    graph = build(job.model.name, manifest.image_shape, job.model.arguments)
    record = new_record(job, manifest, graph, 0, origin)
    refused = {"status": "failed", "device": "", "problem": problem, "ended_utc": now()}
    write_record(paths, record.model_copy(update=refused))


def certified(job: TrainJob, graph: Graph, device: str) -> dict[str, Any]:
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


def _cascade(job: TrainJob, manifest: Manifest) -> CascadeSettings | None:
    """How the stages of a run on patches follow each other; None of one network on slices."""
    if manifest.kind != "patches3d":
        return None
    given = job.training.cascade
    return CascadeSettings(
        stages=given.stages,
        pass_above=given.pass_above,
        larger_than_vox=given.larger_than_vox,
        min_total_ml=given.min_total_ml,
    )


def new_record(
    job: TrainJob, manifest: Manifest, graph: Graph, restart_count: int, origin: dict[str, Any]
) -> RunRecord:
    """The record of a training that begins now. origin: where the code comes from, as `provenance` gives it."""
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
        processes=job.processes,
        started_utc=now(),
        restart_count=restart_count,
        monitor=monitor_of(job.training, has_validation=_validates(job, manifest), has_dice=_has_dice(manifest)),
        threshold=job.training.threshold,
        cascade=_cascade(job, manifest),
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
        brain_sources=manifest.brain_sources,
    )


def _validates(job: TrainJob, manifest: Manifest) -> bool:
    """Whether there is anything to validate on: a cascade holds patches out where the split holds out no case."""
    patches = manifest.kind == "patches3d" and job.training.cascade.hold_out > 0
    return bool(manifest.split.validation) or patches


def _has_dice(manifest: Manifest) -> bool:
    """Whether voxels are predicted and a validation case has a lesion; a patch has no Dice."""
    return manifest.kind != "patches3d" and any(entry.lesion_voxels for entry in manifest.subset("validation"))


def now() -> str:
    """The time as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat()
