"""What processes that train one network together agree on between steps: shares, scores, when to save, when to stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.backends.base import Backend, FloatArray
from mspipeline.backends.process_group import ALONE, ProcessGroup
from mspipeline.errors import Interrupted, Preempted, RunFolderError, SuiteError


@dataclass(frozen=True)
class Share:
    """What this process computes of a joint batch. replicated: every process computes all, rank 0 counts."""

    images: FloatArray
    masks: FloatArray
    cases: npt.NDArray[np.int32]
    replicated: bool = False


class DataParallel:
    """The processes of a training. One process alone agrees with itself, at no cost."""

    def __init__(self, backend: Backend, group: ProcessGroup = ALONE) -> None:
        self._backend, self._group = backend, group

    @property
    def writes(self) -> bool:
        """Whether this process writes files and reports: one of them does."""
        return self._group.rank == 0

    @property
    def size(self) -> int:
        return self._group.size

    def share(self, images: FloatArray, masks: FloatArray, cases: npt.NDArray[np.int32]) -> Share:
        """This process's part of a joint batch, in the order of its images."""
        each, left = divmod(len(images), self._group.size)
        if left:
            return Share(images, masks, cases, replicated=True)
        local = slice(self._group.rank * each, (self._group.rank + 1) * each)
        return Share(images[local], masks[local], cases[local])

    def sum(self, sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The sum over the processes. All of them must call this."""
        if self._group.size == 1:
            return sums
        total: npt.NDArray[np.float64] = self._backend.gather(sums).sum(axis=0, dtype=np.float64)
        return total

    def gather(self, scores: dict[str, Any]) -> dict[str, Any]:
        """The plain data of every process's scores, by rank; of one alone as they are."""
        if self._group.size == 1:
            return scores
        return {name: self._backend.gather(np.asarray(value)).tolist() for name, value in scores.items()}

    def local_part(self, gathered: dict[str, Any]) -> dict[str, Any]:
        """This process's part of what `gather` returned."""
        if self._group.size == 1:
            return gathered
        return {name: every[self._group.rank] for name, every in gathered.items()}

    def total(self, gathered: dict[str, Any]) -> dict[str, Any]:
        """The scores of the joint batches: the sum over the processes of what `gather` returned."""
        if self._group.size == 1:
            return gathered
        return {name: np.sum(every, axis=0).tolist() for name, every in gathered.items()}

    def agree_on_stop(self, error: SuiteError | None, due: bool) -> tuple[SuiteError | None, bool]:
        """Whether to stop and whether a checkpoint is due, the same on all processes: one that stops, stops all."""
        if self._group.size == 1:
            return error, due
        reported = self._backend.gather(np.array([error.exit_code if error else 0, due], np.int32))
        codes = reported[:, 0]
        if error is None and codes.any():
            kind = Interrupted if Interrupted.exit_code in codes else Preempted
            error = kind("stopped with another process, state saved; run the same command again to continue")
        return error, bool(reported[0, 1])

    def check_same_place(self, place: Sequence[int], config_hash: str) -> None:
        """Raise RunFolderError where the processes do not go on from one place of one run."""
        if self._group.size == 1:
            return
        here = np.array([*place, int(config_hash[:12], 16)], np.int64)
        everywhere = self._backend.gather(here)
        if (everywhere != here).any():
            epochs = ", ".join(f"epoch {row[0]} step {row[1]}" for row in everywhere)
            raise RunFolderError(
                f"{self._group.name}: the processes see different checkpoints or settings ({epochs}); give all of them "
                "one run folder on a shared disk, and run the same command again"
            )

    def barrier(self) -> None:
        """Return once all processes have called this."""
        if self._group.size > 1:
            self._backend.gather(np.zeros(1, np.int32))
