"""What one backend makes of a network, written as evidence: one engine a process. `certification` compares it."""

from __future__ import annotations

from mspipeline.backends.base import Execution
from mspipeline.backends.certification.certificate import versions_of
from mspipeline.backends.certification.evidence import gather, write_evidence
from mspipeline.backends.certification.trial import Trial, make_trial
from mspipeline.backends.registry import create
from mspipeline.config import CertifyJob
from mspipeline.models.catalogue import build


def trial_of(job: CertifyJob) -> Trial:
    """What the backend is given. Raises what `catalogue.build` and `make_trial` do."""
    graph = build(job.model.name, job.image_shape, job.model.arguments)
    return make_trial(graph, seed=job.seed, batch_size=job.batch_size, optimizers=job.optimizers)


def certify_job(job: CertifyJob) -> None:
    """Write `job.evidence`. Raises BackendError where the backend is absent or cannot have the network or its loss."""
    execution = Execution(device=job.device, threads=job.threads, seed=job.seed)
    evidence = gather(create(job.backend), trial_of(job), execution, versions_of(job.backend))
    write_evidence(job.evidence, evidence)
