"""A job that lacks what runs it."""

from __future__ import annotations

from mspipeline.config import CollectJob
from mspipeline.jobs.job import Job

JOB = Job("nothing_runs", CollectJob)  # type: ignore[call-arg]
