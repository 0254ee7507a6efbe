"""Gather run folders into tables."""

from __future__ import annotations

from mspipeline.config import CollectJob
from mspipeline.jobs.job import Job, JobContext


def _run(job: CollectJob, context: JobContext) -> None:
    from mspipeline.collect.tables import collect

    collect(job.runs, job.output).check()


JOB = Job("collect", CollectJob, _run)
