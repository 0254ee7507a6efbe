"""The certificates that a sweep needs before its cells run: of each network and pair of backends, at its own size."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from mspipeline.backends.certification.certificate import (
    NotCertified,
    Outcome,
    covering,
    network_of,
    side_of,
    versions_of,
)
from mspipeline.backends.registry import adapter, availability
from mspipeline.campaigns.campaign import Campaign
from mspipeline.config import TrainJob
from mspipeline.jobs.work.certification import Command, Report, Request, certify, job_command
from mspipeline.models.catalogue import build
from mspipeline.network.graph import Graph

UNCERTIFIED = "or compare them all the same with --uncertified, and the report says so"


def certify_campaign(
    campaign: Campaign, *, report: Report | None = None, command: Command = job_command
) -> list[Outcome]:
    """Make the certificates that are missing, on this machine; return what became of each backend that was tried.

    A network that runs on one backend needs none, nor does a backend that is absent or cannot realise the network: its
    cells fail and say so. Raises NotCertified where networks differ, or where cells run on other machines than this and
    their certificates are missing.
    """
    outcomes = []
    image_shape = campaign.recipe.image_shape
    for jobs in _by_network(campaign):
        first = jobs[0]
        graph = build(first.model.name, image_shape, first.model.arguments)
        backends = [job.backend for job in jobs if _present(job.backend, graph)]
        folder = first.certificates
        if folder is None or len(backends) < 2:
            continue
        optimizers = _optimizers(campaign, first)
        missing = [name for name in backends[1:] if not _covered(folder, first, graph, optimizers, backends[0], name)]
        if not missing:
            continue
        if not campaign.scheduler.runs_here:
            raise NotCertified(_make_elsewhere(first, image_shape, [backends[0], *missing], optimizers, folder))
        request = Request(
            first.model,
            (backends[0], *missing),
            image_shape,
            first.device,
            seed=0,
            threads=max(first.threads, 1),
            optimizers=optimizers,
        )
        made = certify(request, folder, report=report, command=command)
        outcomes += made
        unequal = [each for each in made if each.state not in ("certified", "reference", "cannot")]
        if unequal:
            problems = "; ".join(f"{each.backend}: {each.detail}" for each in unequal)
            raise NotCertified(
                f"{first.model.name}: not certified against {backends[0]}: {problems}; correct the backend, "
                f"leave it out, {UNCERTIFIED}"
            )
    return outcomes


def _by_network(campaign: Campaign) -> Iterator[list[TrainJob]]:
    """Of each network and device with certificates to look for, one training job for each backend, in their order."""
    jobs = [cell.train for cell in campaign.cells if cell.train.certificates is not None]
    for _, group in itertools.groupby(sorted(jobs, key=_network), key=_network):
        yield list({job.backend: job for job in group}.values())


def _network(job: TrainJob) -> tuple[str, str, str]:
    return (job.model.name, json.dumps(job.model.arguments, sort_keys=True), job.device)


def _optimizers(campaign: Campaign, job: TrainJob) -> tuple[str, ...]:
    """Those that train the network of this job on its device, in the order of the cells."""
    cells = (cell.train for cell in campaign.cells if cell.train.certificates is not None)
    return tuple(dict.fromkeys(each.training.optimizer for each in cells if _network(each) == _network(job)))


def _present(backend: str, graph: Graph) -> bool:
    """Whether a backend is installed here and can realise the graph."""
    return not availability(backend).problem and not adapter(backend).unsupported(graph)


def _covered(
    folder: Path, job: TrainJob, graph: Graph, optimizers: tuple[str, ...], reference: str, other: str
) -> bool:
    """Whether a certificate of this very graph covers both, as they are here; only a job knows its GPU's name."""
    device = "CPU" if job.device == "cpu" else None
    sides = (side_of(name, versions_of(name), device) for name in (reference, other))
    found = covering(folder, network_of(job.model, graph), *sides, optimizers=optimizers)
    return bool(found.certificates) and found.same_graph


def _make_elsewhere(
    job: TrainJob, shape: tuple[int, ...], backends: list[str], optimizers: tuple[str, ...], folder: Path
) -> str:
    """What to do where the cells run on other machines: a certificate holds for the hardware it was made on."""
    words = [f"--set {key}={value}" for key, value in job.model.arguments.items()]
    command = " ".join(
        [
            f"mspipeline certify {job.model.name} --backends {','.join(backends)}",
            *words,
            f"--shape {'x'.join(map(str, shape))} --device {job.device}",
            f"--optimizers {','.join(optimizers)} -o {folder}",
        ]
    )
    named = " and ".join(backends)
    return f"{job.model.name}: no certificate of {named} in {folder}; make it on a node: `{command}`, {UNCERTIFIED}"
