"""A small training on the tests' cluster, and every way in which SLURM stops one."""

import json
import os
import signal
import threading

from mspipeline.backends.registry import availability
from mspipeline.campaigns.attempt import read_attempt
from mspipeline.campaigns.campaign import Campaign
from mspipeline.campaigns.cancel import cancel
from mspipeline.campaigns.site import Partition, Site
from mspipeline.campaigns.submission import read_submission
from mspipeline.campaigns.sweep import Matrix, Sweep
from mspipeline.config import TrainingSettings
from mspipeline.errors import Interrupted
from mspipeline.runs import RunPaths, read_rows
from mspipeline.tables.schema import EPOCHS
from tests.campaigns.process_watch import processes_of, wait_for

CURVE = ["epoch", "subset", "steps_total", "images", "loss", "dice", "dice_slice_soft_smooth1"]
START_S = 240.0


def backend():
    """The one of those installed that starts first: most of the time goes into starting, 25 times."""
    return next(name for name in ("pyeddl", "torch", "tensorflow") if not availability(name).problem)


class Training:
    """A campaign of one cell, a narrow U-Net, followed in a thread as `mspipeline sweep` does it."""

    def __init__(self, cluster, shards, folder, *, epochs=24, checkpoint_every_s=300.0, time_min=30, warn_s=60):
        self.cluster = cluster
        partition = Partition(cpus=1, mem_gb=3, time_min=time_min)
        site = Site(name="cluster", executor="slurm", partitions={"cpu": partition}, warn_s=warn_s)
        sweep = Sweep(
            name="one",
            matrix=Matrix(model=("unet2d",), backend=(backend(),), seed=(3,)),
            models={"unet2d": {"base_width": 2}},
            training=TrainingSettings(epochs=epochs, batch_size=5, learning_rate=1e-3, loss="dice"),
            threads=1,
            checkpoint_every_s=checkpoint_every_s,
        )
        self.campaign = Campaign.create(folder / "campaign", sweep, shards, site)
        self.folder = self.campaign.cells[0].train.run_folder
        self.messages = []
        self._follow()

    def _follow(self):
        self.outcome = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            self.outcome = self.campaign.run(lambda table: self.messages.append(table[0].message), poll_s=0.1)
        except BaseException as error:
            self.outcome = error

    @property
    def job(self):
        return read_submission(self.folder).job_id

    def record(self):
        return read_attempt(self.folder)

    @property
    def attempt(self):
        record = self.record()
        return -1 if record is None else record.attempt

    def node(self):
        return self.cluster.run("squeue", "-h", "-j", self.job, "-t", "R", "-o", "%N").strip()

    def curve(self):
        """Rows of the finished epochs, but for their times."""
        return read_rows(RunPaths(self.folder).epochs, EPOCHS).select(CURVE).to_pylist()

    def ended(self):
        """Exit code of the training in each attempt whose supervisor lived to see it."""
        exits = [json.loads(path.read_text()) for path in self.folder.glob("telemetry/train-*/exit.json")]
        return [each["exit_code"] for each in sorted(exits, key=lambda each: each["attempt"])]

    def has_trained_on(self):
        """Wait until this attempt has finished an epoch."""
        before, attempt = len(self.curve()), self.attempt
        wait_for(lambda: len(self.curve()) > before or self.outcome, START_S)
        assert self.outcome is None, self.outcome
        assert self.attempt >= attempt

    def finish(self, seconds=300):
        self._thread.join(seconds)
        assert isinstance(self.outcome, list), self.outcome
        assert self.outcome[0].state == "done"
        return read_attempt(self.folder)

    def cancel(self):
        """`mspipeline cancel` in another terminal."""
        cancel(Campaign.open(self.campaign.folder))
        self._thread.join(60)
        assert isinstance(self.outcome, Interrupted)

    def resume(self):
        self._follow()


def preempt(training):
    """An urgent job takes both nodes for a second."""
    urgent = ("sbatch", "--parsable", "-p", "urgent", "-N2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1")
    job = training.cluster.run(*urgent).strip()
    wait_for(lambda: job not in training.cluster.run("squeue", "-h", "-t", "PENDING,RUNNING", "-o", "%i").split(), 60)
    training.cluster.start_again(training.job)


def requeue(training):
    training.cluster.run("scontrol", "requeue", training.job)
    training.cluster.start_again(training.job)


def warn(training):
    """What SLURM sends `warn_s` before the time limit: the job then puts itself back."""
    training.cluster.run("scancel", "--signal=USR2", training.job)
    training.cluster.start_again(training.job)


def kill(training):
    """Everything at once: no word is left, the campaign submits another job."""
    for process in processes_of(training.folder):
        os.kill(process.pid, signal.SIGKILL)


def cut_the_power(training):
    """The node is gone without a word; SLURM finds out, here because it is told so, and starts the job elsewhere."""
    node = training.node()
    training.cluster.kill_node(node)
    training.cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    training.cluster.start_again(training.job)
    wait_for(lambda: training.node() not in ("", node), 60)  # a node that is back too soon kills what it is given
    training.cluster.start_node(node)
