"""Train one network on one backend: from shards to checkpoints and epoch rows in a run folder."""

from __future__ import annotations

import os

from mspipeline.config import TrainJob
from mspipeline.console import TrainingProgress
from mspipeline.jobs.job import Job, JobContext, Processes, Watched
from mspipeline.jobs.process.stop import StopRequest
from mspipeline.jobs.process.supervise import visible_gpus
from mspipeline.provenance import provenance
from mspipeline.runs import run_id


def _run(job: TrainJob, context: JobContext) -> None:
    stop = StopRequest("state saved; run the same command again to continue")
    stop.listen()
    from mspipeline.jobs.work.train import train

    origin = provenance(
        commit=os.environ.get("MSPIPELINE_COMMIT"),
        image_digest=os.environ.get("MSPIPELINE_IMAGE_DIGEST"),
        visible_gpus=visible_gpus(os.environ),
        environ=os.environ,
    )
    with TrainingProgress(enabled=context.draws and context.group.rank == 0) as observer:
        train(
            job,
            events=context.events,
            observer=observer,
            stop=stop,
            restart_count=context.attempt,
            origin=origin,
            group=context.group,
        )


def _run_id(job: TrainJob) -> str:
    """The name of the run that a training makes. Raises ShardError where its shards have no manifest."""
    from mspipeline.shards.manifest import load_manifest

    return run_id(job, load_manifest(job.shards))


JOB = Job(
    "train",
    TrainJob,
    _run,
    watched=Watched(
        folder=lambda job: job.run_folder,
        run_id=_run_id,
        writes=("run.json", "epochs.*", "checkpoints/*", "checkpoints/stage*/*"),
        remedy="choose another output folder",
    ),
    processes=Processes(number=lambda job: job.processes, share_cores=lambda job: job.threads == 0),
)
