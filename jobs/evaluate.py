"""Score a run case by case, on each scan's own grid. It does not stand in a training's way.

It reads a checkpoint, which appears whole, and writes files of its own.
"""

from __future__ import annotations

from mspipeline.config import EvaluateJob
from mspipeline.console import CaseProgress
from mspipeline.jobs.job import Job, JobContext, Watched
from mspipeline.jobs.process.stop import StopRequest
from mspipeline.runs import RunPaths, read_record


def _run(job: EvaluateJob, context: JobContext) -> None:
    stop = StopRequest("earlier scores are kept; run the same command again to score")
    stop.listen()
    from mspipeline.jobs.work.evaluate import evaluate

    with CaseProgress("evaluate", enabled=context.draws) as report:
        evaluate(job, events=context.events, stop=stop, report=report)


JOB = Job(
    "evaluate",
    EvaluateJob,
    _run,
    watched=Watched(
        folder=lambda job: job.run_folder,
        run_id=lambda job: read_record(RunPaths(job.run_folder)).run_id,
        writes=("cases.*", "lesions.*"),
        remedy="evaluate keeps its scores in the run's folder: copy the run to a place that you may write",
    ),
)
