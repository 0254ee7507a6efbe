"""What one job asks for besides what its partition says, and what it waits for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mspipeline.campaigns.site import Partition


@dataclass(frozen=True)
class After:
    """Jobs that another job waits for.

    succeeded: all went well. same_succeeded: of two arrays, each element waits for the same element of the other.
    ended: all are over, however they ended.
    """

    condition: Literal["succeeded", "same_succeeded", "ended"]
    jobs: tuple[str, ...]


@dataclass(frozen=True)
class JobShape:
    """What one job asks for besides what its partition says.

    tasks: processes that the scheduler or an MPI may start in it. pack: cells side by side. cpus: of each task; where
    unset the partition decides, and where set the job asks for no gres and for its share of the memory. after: jobs to
    wait for. propagates_exit_code: whether it ends with its commands' code, for the jobs that wait for it.
    """

    tasks: int = 1
    pack: int = 1
    cpus: int | None = None
    after: After | None = None
    propagates_exit_code: bool = False

    def of(self, partition: Partition) -> Partition:
        """What one task asks for."""
        if self.cpus is None:
            return partition
        share = self.cpus / partition.cpus if partition.cpus else 1
        mem_gb = partition.mem_gb and partition.mem_gb * min(1, share)
        return partition.model_copy(update={"cpus": self.cpus, "mem_gb": mem_gb, "gres": None})


PLAIN = JobShape()
