"""A job of another package: how many voxels the masks of each shard have, as JSON beside its telemetry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mspipeline.config import Strict
from mspipeline.files import write_json
from mspipeline.jobs.job import Job, JobContext, Watched
from mspipeline.jobs.process.stop import StopRequest


class CountVoxels(Strict):
    """One count: `python -m mspipeline.jobs count_voxels FILE`. wait: count again and again until it is stopped."""

    shards: Path
    output: Path
    wait: bool = False


def count(job: CountVoxels, context: JobContext) -> None:
    """Write OUTPUT/voxels.json. Raises ShardError where the shards have no manifest."""
    stop = StopRequest("the counts so far are kept; run the same command again")
    stop.listen()
    from mspipeline.hdf5 import open_hdf5
    from mspipeline.shards.manifest import load_manifest

    voxels: dict[str, Any] = {}
    with context.events.phase("prepare"):
        for entry in load_manifest(job.shards).cases:
            with open_hdf5(job.shards / entry.file) as shard:
                voxels[entry.case] = int(shard["mask"].size)
        write_json(job.output / "voxels.json", {"attempt": context.attempt, "voxels": voxels})
        while job.wait and stop() is None:
            pass
    if error := stop():
        raise error


JOB = Job(
    "count_voxels",
    CountVoxels,
    count,
    watched=Watched(folder=lambda job: job.output, run_id=lambda job: "count", writes=("voxels.*",)),
)
OTHER_SETTINGS: Any = Job("other_settings", dict, count)
