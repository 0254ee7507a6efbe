"""A real training on a real SLURM, stopped in every way that SLURM stops a job: it goes on from the same step."""

import json

import pytest
from process_watch import wait_for

from mspipeline.config import EvaluateJob, ModelSettings, TrainingSettings, TrainJob
from mspipeline.runs import RunPaths, read_rows
from mspipeline.telemetry.schema import EPOCHS as EPOCH_ROWS
from slurm.attempt import read_attempt
from slurm.campaign import config_path, job_commands
from slurm.site import Partition, Site
from slurm.submit import submit
from slurm.sweep import Cell

pytestmark = [pytest.mark.slurm, pytest.mark.long, pytest.mark.usefixtures("backend_needed")]

CURVE = ["epoch", "subset", "steps_total", "images", "loss", "dice", "dice_slice_soft_smooth1"]
EPOCHS = 24


class Training:
    """One cell with a narrow U-Net, its jobs on the cluster one after the other."""

    def __init__(self, cluster, shards, folder, time_min=30, warn_s=60, epochs=EPOCHS):
        self.cluster, self.folder, self.jobs = cluster, folder / "cell", 0
        partition = Partition(cpus=1, mem_gb=3, time_min=time_min)
        self.site = Site(name="cluster", executor="slurm", partitions={"cpu": partition}, warn_s=warn_s)
        settings = TrainingSettings(epochs=epochs, batch_size=5, learning_rate=1e-2, loss="dice")
        self.cell = Cell(
            "cell",
            TrainJob(
                model=ModelSettings(name="unet2d", arguments={"base_width": 2}),
                shards=shards,
                run_folder=self.folder,
                threads=1,
                seed=3,
                training=settings,
            ),
            EvaluateJob(run_folder=self.folder, shards=shards, threads=1),
        )
        for job in ("train", "evaluate"):
            path = config_path(self.cell, job)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(getattr(self.cell, job).model_dump_json())

    def submit(self):
        logs = self.folder.parent / f"logs{self.jobs}"
        self.jobs += 1
        self.handle = submit(self.site, "cpu", "cell", job_commands(self.cell), self.folder, logs)
        self.job = self.handle.submission.job_id

    def curve(self):
        """Rows of the finished epochs, but for their times."""
        return read_rows(RunPaths(self.folder).epochs, EPOCH_ROWS).select(CURVE).to_pylist()

    def ended(self, job):
        """What the supervisor wrote at the end of each attempt that it lived to see."""
        exits = [json.loads(path.read_text()) for path in self.folder.glob("telemetry/*/exit.json")]
        return sorted((each for each in exits if each["job"] == job), key=lambda each: each["attempt"])

    def has_trained_on(self):
        """Wait for an epoch more than there are."""
        before = len(self.curve())
        wait_for(lambda: len(self.curve()) > before, 120)

    def finish(self):
        wait_for(self.handle.ended, 240)
        record = read_attempt(self.folder)
        assert record.exit_code == 0, record.log.read_text()[-2000:]
        return record


@pytest.fixture(scope="module")
def uninterrupted(slurm_cluster, small_shards, tmp_path_factory):
    """The curve of a training that nobody disturbs."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in slurm_cluster.environment.items():
            patch.setenv(name, value)
        training = Training(slurm_cluster, small_shards, tmp_path_factory.mktemp("whole"))
        training.submit()
        training.finish()
        return training.curve()


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


def fail_the_node(training):
    node = training.cluster.run("squeue", "-h", "-j", training.job, "-o", "%N").strip()
    training.cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    # Its daemon lives and brings it back at once: SLURM's own delay keeps the job off it until its old step is gone.
    wait_for(lambda: "PENDING" in training.cluster.run("squeue", "-h", "-j", training.job, "-o", "%T"), 60)
    training.cluster.resume_nodes()


def kill(training):
    """Everything at once, as the memory limit does: no word is left, another job goes on."""
    training.cluster.run("scancel", "--signal=KILL", "--full", training.job)
    wait_for(training.handle.ended, 60)
    training.submit()


@pytest.mark.timeout(900)
def test_a_training_stopped_in_every_way_has_the_curve_of_one_that_never_was(
    cluster, small_shards, tmp_path, uninterrupted
):
    training = Training(cluster, small_shards, tmp_path)
    training.submit()
    for stop in (preempt, requeue, warn, fail_the_node, kill):
        training.has_trained_on()
        stop(training)
    record = training.finish()
    assert training.curve() == uninterrupted
    assert len(uninterrupted) == 2 * EPOCHS
    assert record.attempt == 5
    # 75: the state of that very step was saved. The killed one left no word, and goes on from its last whole epoch.
    assert [each["exit_code"] for each in training.ended("train")] == [75, 75, 75, 75, 0]
    assert json.loads((training.folder / "run.json").read_text())["restart_count"] == 5


@pytest.mark.timeout(600)
def test_a_training_longer_than_its_time_limit_puts_itself_back(cluster, small_shards, tmp_path):
    """USR2 comes 45 s before the end of its minute, or up to a minute earlier; nobody but the job puts it back."""
    training = Training(cluster, small_shards, tmp_path, time_min=2, warn_s=45, epochs=4000)
    training.submit()
    training.has_trained_on()
    wait_for(lambda: f"requeued: {training.job}" in training.handle.submission.log.read_text(), 120)
    training.cluster.start_again(training.job)
    training.has_trained_on()
    assert read_attempt(training.folder).attempt == 1
    assert [each["exit_code"] for each in training.ended("train")] == [75]
