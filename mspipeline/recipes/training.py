"""What a recipe trains with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mspipeline.config import TrainJob
from mspipeline.network.graph import Graph
from mspipeline.runs import RunPaths
from mspipeline.shards.manifest import Manifest
from mspipeline.telemetry.events import EventWriter
from mspipeline.training.progress import Progress, TrainingStage
from mspipeline.training.protocols import BatchReader, Observer, Stop


class ReadyTraining(Protocol):
    """A network ready to be trained on its readers (`training.loop.Training`)."""

    def run(self) -> Progress:
        """Train to the end. Raises the error that the run's `stop` returns, the state saved before."""


Begin = Callable[[BatchReader, BatchReader | None, TrainingStage | None], ReadyTraining]
"""(train, validation, stage) -> a network ready to be trained: as drawn, or as its last checkpoint left it."""


@dataclass(frozen=True)
class TrainingRun:
    """What a recipe trains with. threads: of whatever it computes itself. begin: makes a network ready for readers."""

    job: TrainJob
    manifest: Manifest
    graph: Graph
    paths: RunPaths
    config_hash: str
    threads: int
    begin: Begin
    events: EventWriter
    observer: Observer
    stop: Stop
