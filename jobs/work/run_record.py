"""`run.json` of a training: what is known before it begins, what certifies it, and why it could not begin."""

from __future__ import annotations

from typing import Any

from mspipeline.backends.certification.certificate import covering, network_of, side_of, versions_of
from mspipeline.backends.registry import availability
from mspipeline.config import TrainJob
from mspipeline.jobs.work.resources import threads_for
from mspipeline.models.catalogue import build
from mspipeline.network.cost import cost
from mspipeline.network.graph import Graph
from mspipeline.recipes.catalogue import AnyRecipe
from mspipeline.runs import CertificateNote, RunPaths, RunRecord, config_hash, run_id, utc_now, write_record
from mspipeline.shards.manifest import Manifest
from mspipeline.training.progress import monitor_of


def record_refusal(
    paths: RunPaths, job: TrainJob, manifest: Manifest, recipe: AnyRecipe, origin: dict[str, Any], problem: str
) -> None:
    """`run.json` of a training that its backend refused: so that a comparison has a column that says so."""
    graph = build(job.model.name, recipe.image_shape, job.model.arguments)
    record = new_record(job, manifest, recipe, graph, 0, origin)
    refused = {"status": "failed", "device": "", "problem": problem, "ended_utc": utc_now()}
    write_record(paths, record.model_copy(update=refused))


def certified(job: TrainJob, graph: Graph, device: str) -> dict[str, Any]:
    """The fields of a record that say whether a certificate covers this backend, as it is here."""
    if job.certificates is None:
        return {}
    here = side_of(job.backend, versions_of(job.backend), device)
    optimizers = [job.training.optimizer]
    found = covering(job.certificates, network_of(job.model, graph), here, optimizers=optimizers)
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


def new_record(
    job: TrainJob, manifest: Manifest, recipe: AnyRecipe, graph: Graph, restart_count: int, origin: dict[str, Any]
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
        optimizer=job.training.optimizer,
        learning_rate=job.training.chosen_optimizer.learning_rate,
        batch_size=job.training.batch_size or recipe.batch_size,
        threads=threads_for(job.threads),
        processes=job.processes,
        started_utc=utc_now(),
        restart_count=restart_count,
        monitor=monitor_of(
            job.training,
            has_validation=recipe.validates(manifest, job.training),
            has_dice=recipe.has_dice(manifest),
        ),
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
        brain_sources=manifest.brain_sources,
        labels=manifest.labels,
        **recipe.record_fields(job.training),
    )
