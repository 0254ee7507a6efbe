"""Lesion maps of a folder of scans by a run, which is only read: a prediction holds nothing."""

from __future__ import annotations

from mspipeline.config import PredictJob
from mspipeline.console import CaseProgress, say_warning
from mspipeline.jobs.job import Job, JobContext, Watched
from mspipeline.jobs.process.stop import StopRequest
from mspipeline.runs import RunPaths, read_record


def _run(job: PredictJob, context: JobContext) -> None:
    stop = StopRequest("finished maps are kept; run the same command again to make all")
    stop.listen()
    from mspipeline.jobs.work.predict import predict

    with CaseProgress("predict", enabled=context.draws) as report:
        predict(job, events=context.events, stop=stop, report=report, warn=say_warning)


JOB = Job(
    "predict",
    PredictJob,
    _run,
    watched=Watched(
        folder=lambda job: job.run_folder,
        run_id=lambda job: read_record(RunPaths(job.run_folder)).run_id,
    ),
)
