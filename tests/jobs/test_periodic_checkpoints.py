"""Checkpoints within an epoch: what a training that is killed without a word goes on from."""

import pytest

from mspipeline.jobs.work.train import train
from mspipeline.runs import RunPaths, read_rows
from mspipeline.tables.schema import EPOCHS
from mspipeline.telemetry.events import EventWriter
from mspipeline.telemetry.schema import Identity
from mspipeline.training.checkpoint import read_checkpoint

pytestmark = pytest.mark.usefixtures("backend_needed")

CURVE = ["epoch", "subset", "steps_total", "loss", "dice", "dice_slice_soft_smooth1"]
STEPS_AN_EPOCH = 7  # 32 slices of two cases in batches of 5


class Killed(BaseException):
    """Nobody catches it, as nobody catches SIGKILL."""


class Observer:
    """Ends the training without a word after some steps of training."""

    def __init__(self, after=None):
        self._after, self._steps, self.begun = after, 0, []

    def epoch_begins(self, epoch, epochs, subset, steps, step):
        self._subset = subset
        self.begun.append((epoch, subset, step))

    def step_done(self, loss, dice, images_per_second):
        self._steps += self._subset == "train"
        if self._steps == self._after:
            raise Killed

    def epoch_ended(self, epoch, epochs, rows):
        pass


def run(job, after=None):
    observer = Observer(after)
    with EventWriter(None, Identity("")) as events:
        train(job, events=events, observer=observer, stop=lambda: None)
    return observer.begun, read_rows(RunPaths(job.run_folder).epochs, EPOCHS).select(CURVE).to_pylist()


def test_a_training_killed_in_mid_epoch_goes_on_from_its_last_periodic_checkpoint_with_the_same_curve(
    train_job, tmp_path
):
    _, whole = run(train_job)
    often = train_job.model_copy(update={"run_folder": tmp_path / "killed", "checkpoint_every_s": 1e-9})
    with pytest.raises(Killed):
        run(often, after=STEPS_AN_EPOCH + 4)
    saved = read_checkpoint(RunPaths(often.run_folder).last).progress
    assert (saved["epoch"], saved["step"], saved["steps_total"]) == (2, 3, STEPS_AN_EPOCH + 3)
    begun, rows = run(often)
    assert begun == [(2, "train", 3), (2, "validation", 0)]
    assert rows == whole
