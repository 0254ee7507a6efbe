"""What one backend makes of a network, as evidence for a certificate: one engine a process."""

from __future__ import annotations

from mspipeline.config import CertifyJob
from mspipeline.jobs.job import Job, JobContext


def _run(job: CertifyJob, context: JobContext) -> None:
    from mspipeline.jobs.work.certify import certify_job

    certify_job(job)


JOB = Job("certify", CertifyJob, _run)
