"""Peak memory of training on 4 times the cases, against 1 times: `python -m benchmarks.micro.training_memory`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mspipeline.benchmarks.micro import reader_memory
from mspipeline.benchmarks.micro.result import Result, main
from mspipeline.config import ModelSettings, TrainingSettings, TrainJob
from mspipeline.console import TrainingProgress
from mspipeline.jobs.work.train import train
from mspipeline.telemetry.events import EventWriter
from mspipeline.telemetry.schema import Identity


def train_epochs(shards: Path) -> None:
    """Two epochs of a narrow U-Net on every case, checkpoints included."""
    with (
        tempfile.TemporaryDirectory() as folder,
        EventWriter(None, Identity("")) as events,
        TrainingProgress(enabled=False) as observer,
    ):
        job = TrainJob(
            model=ModelSettings(name="unet2d", arguments={"base_width": 2}),
            shards=shards,
            run_folder=Path(folder) / "run",
            training=TrainingSettings(epochs=2, batch_size=8),
        )
        train(job, events=events, observer=observer, stop=lambda: None)


def measure() -> list[Result]:
    """Each training in a process of its own."""
    return reader_memory.measure(train_epochs, name="training")


if __name__ == "__main__":
    main(measure, __doc__)
