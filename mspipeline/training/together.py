"""What processes that train one network together settle between steps: shares, scores, when to save, when to stop."""

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
    """What this process computes of a joint batch. whole: every process computes all of it, and rank 0 counts it."""

    images: FloatArray
    masks: FloatArray
    cases: npt.NDArray[np.int32]
    whole: bool = False


class Together:
    """The processes of a training; one alone settles everything with itself, at no cost."""

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
            return Share(images, masks, cases, whole=True)
        own = slice(self._group.rank * each, (self._group.rank + 1) * each)
        return Share(images[own], masks[own], cases[own])

    def summed(self, sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Over the processes; asked by all of them together."""
        if self._group.size == 1:
            return sums
        total: npt.NDArray[np.float64] = self._backend.gather(sums).sum(axis=0, dtype=np.float64)
        return total

    def of_each(self, scores: dict[str, Any]) -> dict[str, Any]:
        """The plain data of every process's scores, by rank; of one alone as they are."""
        if self._group.size == 1:
            return scores
        return {name: self._backend.gather(np.asarray(own)).tolist() for name, own in scores.items()}

    def own(self, of_each: dict[str, Any]) -> dict[str, Any]:
        """This process's part of it."""
        if self._group.size == 1:
            return of_each
        return {name: every[self._group.rank] for name, every in of_each.items()}

    def total(self, of_each: dict[str, Any]) -> dict[str, Any]:
        """The scores of the joint batches: all sums."""
        if self._group.size == 1:
            return of_each
        return {name: np.sum(every, axis=0).tolist() for name, every in of_each.items()}

    def settled(self, error: SuiteError | None, due: bool) -> tuple[SuiteError | None, bool]:
        """Whether to stop, and whether a checkpoint is due, the same on all: a stop of one is everyone's."""
        if self._group.size == 1:
            return error, due
        said = self._backend.gather(np.array([error.exit_code if error else 0, due], np.int32))
        codes = said[:, 0]
        if error is None and codes.any():
            kind = Interrupted if Interrupted.exit_code in codes else Preempted
            error = kind("stopped with another process, state saved; run the same command again to continue")
        return error, bool(said[0, 1])

    def check_alike(self, place: Sequence[int], config_hash: str) -> None:
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

    def wait(self) -> None:
        """Return once all processes have come to here."""
        if self._group.size > 1:
            self._backend.gather(np.zeros(1, np.int32))
