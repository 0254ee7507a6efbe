"""A disk that fills up under a training, on a file system of a few MiB: nothing is lost, and it goes on with room."""

import os
import subprocess
import threading

import pytest

from mspipeline.campaigns.attempt import read_attempt
from mspipeline.campaigns.follow import CellsFailed
from mspipeline.config import TrainJob
from mspipeline.errors import StorageError
from mspipeline.jobs.work.train import train
from mspipeline.runs import RunPaths, read_rows
from mspipeline.tables.schema import EPOCHS
from mspipeline.telemetry.events import EventWriter
from mspipeline.telemetry.schema import Identity
from mspipeline.training.checkpoint import read_checkpoint
from tests.campaigns.campaign_program import cell_commands

CURVE = ["epoch", "subset", "steps_total", "loss", "dice"]


@pytest.fixture
def small_disk(tmp_path):
    """A folder with 4 MiB; `campaign` of make_campaign is in it."""
    folder = tmp_path / "campaign"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system of one's own here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder):
    """Take all the room there is."""
    with (folder / "filler").open("wb", buffering=0) as file:
        for size in (2**16, 2**12):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass


class FillsTheDisk:
    """Observer that takes the room after the first epoch."""

    def __init__(self, folder):
        self._folder = folder

    def epoch_begins(self, epoch, epochs, subset, steps, step):
        if (epoch, subset) == (2, "train"):
            fill(self._folder)

    def step_done(self, loss, dice, images_per_second):
        pass

    def epoch_ended(self, epoch, epochs, rows):
        pass


class Quiet(FillsTheDisk):
    def epoch_begins(self, epoch, epochs, subset, steps, step):
        pass


def run(job: TrainJob, observer):
    with EventWriter(None, Identity("")) as events:
        train(job, events=events, observer=observer, stop=lambda: None)
    return read_rows(RunPaths(job.run_folder).epochs, EPOCHS).select(CURVE).to_pylist()


@pytest.mark.usefixtures("backend_needed")
def test_a_checkpoint_that_finds_no_space_leaves_the_one_before_and_the_training_goes_on_from_it(small_disk, train_job):
    whole = run(train_job, Quiet(small_disk))
    job = train_job.model_copy(update={"run_folder": small_disk / "run"})
    with pytest.raises(StorageError, match=r"cannot be written \(No space left on device\); .* free some space"):
        run(job, FillsTheDisk(small_disk))
    progress = read_checkpoint(RunPaths(job.run_folder).last).progress
    assert (progress["epoch"], progress["step"]) == (2, 0)
    assert list(small_disk.glob("run/**/*.partial")) == []
    os.unlink(small_disk / "filler")
    assert run(job, Quiet(small_disk)) == whole


def test_a_cell_on_a_full_disk_has_failed_for_want_of_space_and_is_resumed_when_there_is_room(
    small_disk, make_campaign
):
    campaign = make_campaign(seeds=(0,), epochs=6)
    folder = campaign.cells[0].train.run_folder
    filled = threading.Event()

    def fill_once(table):
        if table[0].epoch >= 2 and not filled.is_set():
            filled.set()
            fill(small_disk)

    commands = cell_commands("--epoch-seconds", "0.4")
    with pytest.raises(CellsFailed, match=r"no space, or no leave to write: .*No space left on device"):
        campaign.run(fill_once, commands=commands, poll_s=0.05)
    assert read_attempt(folder).exit_code == 74  # written over the old record, for which there was room
    (state,) = campaign.state()
    assert (state.state, state.epoch) == ("failed", 2)
    os.unlink(small_disk / "filler")
    (state,) = campaign.run(commands=commands, poll_s=0.05, retry_failed=True)
    assert state.state == "done"
    assert (folder / "epochs.txt").read_text().split() == ["1", "2", "3", "4", "5", "6"]


def test_a_cell_that_cannot_begin_for_want_of_space_says_so(small_disk, make_campaign):
    campaign = make_campaign(seeds=(0,))

    def no_room(cell):
        (cell.train.run_folder).mkdir(parents=True, exist_ok=True)
        return [["sh", "-c", f"cat /dev/zero > {small_disk}/filler; exit 9"]]

    with pytest.raises(CellsFailed, match="code 9"):
        campaign.run(commands=no_room, poll_s=0.05)
    assert read_attempt(campaign.cells[0].train.run_folder).exit_code == 9
