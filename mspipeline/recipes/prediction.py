"""How cases are predicted, and what predicts them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mspipeline.backends.base import Execution
from mspipeline.config import Inference
from mspipeline.datasets.case import Case
from mspipeline.labels import LabelMap, LabelSet
from mspipeline.preprocess.brain import BrainOrigin
from mspipeline.runs import RunRecord
from mspipeline.shards.manifest import ShardEntry
from mspipeline.training.protocols import Stop
from mspipeline.volume import FloatArray, ScanGrid

Checkpoint = Literal["best", "last"]


@dataclass(frozen=True)
class PredictionSettings:
    """How cases are predicted. batch_size: unset is the recipe's own. inference, memory_budget_mb: as in PredictJob."""

    checkpoint: Checkpoint
    execution: Execution
    batch_size: int | None = None
    inference: Inference = "auto"
    memory_budget_mb: int = 1024
    stop: Stop = lambda: None


@dataclass(frozen=True)
class Segmentation:
    """What a network makes of one case, on the canonical axes of `grid`.

    labels: (X, Y, Z) uint8, numbers of the run's label set. probabilities: label -> (X, Y, Z) in [0, 1], of each label
    but the background.
    """

    labels: LabelMap
    probabilities: Mapping[str, FloatArray]
    grid: ScanGrid


class Trained(ABC):
    """A trained run, ready to predict."""

    record: RunRecord

    @property
    def labels(self) -> LabelSet:
        """What its predictions are made of."""
        return self.record.label_set

    @property
    @abstractmethod
    def device(self) -> str:
        """What computes, as the framework names it."""

    @property
    @abstractmethod
    def rule(self) -> str:
        """What gives a voxel its label, in words."""

    @abstractmethod
    def shard(self, shards: Path, entry: ShardEntry) -> tuple[LabelMap, Segmentation]:
        """The truth of a prepared case, (X, Y, Z), and what the network makes of it, on the scan's own grid.

        Raises ShardError where the shard cannot be read, and the error that `stop` returns.
        """

    @abstractmethod
    def case(self, case: Case) -> tuple[Segmentation, BrainOrigin | None]:
        """What the network makes of a case's scans, on their own grid, and where its brain came from.

        Raises VolumeError and DatasetError as the preparation does, and the error that `stop` returns.
        """
