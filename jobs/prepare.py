"""Scans to shards, on one process or, under an MPI launcher, several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from mspipeline.config import PrepareJob
from mspipeline.console import CaseProgress, say_warning
from mspipeline.jobs.job import Job, JobContext
from mspipeline.parallel.ranks import Team


@contextmanager
def _open_team(environ: Mapping[str, str]) -> Iterator[Team | None]:
    from mspipeline.jobs.work.prepare import prepare_team

    with prepare_team(environ) as team:
        yield team


def _run(job: PrepareJob, context: JobContext) -> None:
    from mspipeline.jobs.work.prepare import prepare

    with CaseProgress("prepare", enabled=context.draws) as report:
        manifest = prepare(job, report=report, team=context.team)
    for warning in manifest.warnings:
        say_warning(warning)


JOB = Job("prepare", PrepareJob, _run, open_team=_open_team)
