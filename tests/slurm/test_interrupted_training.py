"""A real training on a real SLURM, stopped in every way that SLURM stops a job: it goes on from the same step."""

import json
import time

import pytest

from mspipeline.campaigns.submission import read_submission
from mspipeline.runs import RunPaths
from mspipeline.training.checkpoint import read_checkpoint
from tests.campaigns.process_watch import wait_for
from tests.slurm.interrupted import START_S, Training, cut_the_power, kill, preempt, requeue, warn

pytestmark = [pytest.mark.slurm, pytest.mark.long, pytest.mark.usefixtures("backend_needed")]

EPOCHS = 24
ROUNDS = 5
STEPS_AN_EPOCH = 7  # 32 slices of two cases in batches of 5


@pytest.fixture
def train(cluster, small_shards, tmp_path):
    """Start a training; what of it still runs after the test is ended with the cluster's other jobs."""

    def start(**options):
        return Training(cluster, small_shards, tmp_path, **options)

    return start


@pytest.fixture(scope="module")
def uninterrupted(slurm_cluster, small_shards, tmp_path_factory):
    """The curve of a training that nobody disturbs, by its number of epochs."""
    curves = {}

    def of(epochs):
        if epochs not in curves:
            with pytest.MonkeyPatch.context() as patch:
                for name, value in slurm_cluster.environment.items():
                    patch.setenv(name, value)
                training = Training(slurm_cluster, small_shards, tmp_path_factory.mktemp("whole"), epochs=epochs)
                training.finish()
                curves[epochs] = training.curve()
        return curves[epochs]

    return of


@pytest.mark.timeout(1500)
def test_a_training_stopped_five_times_in_every_way_has_the_curve_of_one_that_never_was(train, uninterrupted):
    epochs = 3 * EPOCHS
    training = train(epochs=epochs, checkpoint_every_s=0.1)
    for stop in [preempt, requeue, warn, cut_the_power, kill] * ROUNDS:
        training.has_trained_on()
        before, began = training.attempt, time.monotonic()
        stop(training)
        wait_for(lambda before=before: training.attempt == before + 1, START_S)
        print(f"{stop.__name__}: {time.monotonic() - began:.1f} s, epoch {len(training.curve()) // 2}", flush=True)
    record = training.finish()
    assert training.curve() == uninterrupted(epochs)
    assert len(training.curve()) == 2 * epochs
    assert record.attempt == 5 * ROUNDS
    # 75: the state of that very step was saved. The killed ones left no word.
    assert training.ended() == [75] * 3 * ROUNDS + [0]
    assert json.loads((training.folder / "run.json").read_text())["restart_count"] == 5 * ROUNDS


@pytest.mark.timeout(600)
def test_a_training_cancelled_by_its_user_in_mid_epoch_goes_on_at_the_same_step(train, uninterrupted):
    training = train()
    training.has_trained_on()
    training.cancel()
    progress = read_checkpoint(RunPaths(training.folder).last).progress
    assert progress["steps_total"] == (progress["epoch"] - 1) * STEPS_AN_EPOCH + progress["step"]
    assert training.ended() == [75]
    training.resume()
    assert training.finish().attempt == 1
    assert training.curve() == uninterrupted(EPOCHS)


@pytest.mark.timeout(1200)
def test_a_training_longer_than_its_time_limit_puts_itself_back(train):
    """USR2 comes 45 s before the end, or up to a minute earlier; nobody but the job puts it back.

    Five minutes, so that a busy machine trains an epoch before the warning; by then it may have come more than once.
    """
    training = train(time_min=5, warn_s=45, epochs=4000)
    training.has_trained_on()
    log = read_submission(training.folder).log
    wait_for(lambda: f"requeued: {training.job}" in log.read_text(), 360)
    training.cluster.start_again(training.job)
    training.has_trained_on()
    assert training.attempt >= 1
    assert set(training.ended()) == {75}
    training.cancel()
