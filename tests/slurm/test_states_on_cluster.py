"""What `status` says of cells that nobody follows, on a real SLURM: the truth, whoever was killed."""

import json
import os
import signal
from contextlib import suppress

import pytest

from mspipeline.campaigns.attempt import newest_state, read_attempt
from mspipeline.campaigns.campaign import Campaign
from mspipeline.campaigns.cancel import cancel
from mspipeline.campaigns.ending import ending_of
from mspipeline.campaigns.gaps import write_gaps
from mspipeline.campaigns.scheduler import NoAnswer
from mspipeline.campaigns.schedulers import scheduler_named
from mspipeline.campaigns.site import Partition, Site
from mspipeline.campaigns.submission import read_submission
from mspipeline.collect.tables import collect
from mspipeline.commands.display.campaigns import word_of
from mspipeline.errors import ConfigError
from mspipeline.slurm.submission.queue import QUEUE, SILENT, Queue, end_of
from tests.campaigns.campaign_program import cell_commands
from tests.campaigns.process_watch import processes_of, wait_for

pytestmark = pytest.mark.slurm

SLURM = scheduler_named("slurm")
SITE = Site(name="cluster", executor="slurm", partitions={"cpu": Partition(cpus=1, mem_gb=0.5, time_min=5)}, warn_s=30)
ELSEWHERE = "another-host"


@pytest.fixture
def cell(cluster, make_campaign):
    """A campaign of one cell that was handed over, trains, and that no process follows."""

    class Cell:
        def __init__(self):
            self.campaign = make_campaign(site=SITE, seeds=(0,), epochs=40)
            self.folder = self.campaign.cells[0].train.run_folder
            self.campaign.submit(commands=cell_commands("--epoch-seconds", "0.3"))
            self.job = self.submission().job_id
            wait_for(self.epochs, 60)

        def epochs(self):
            path = self.folder / "epochs.txt"
            return path.read_text().splitlines() if path.exists() else []

        def submission(self):
            found = read_submission(self.folder)
            assert found is not None
            return found

        def state(self):
            QUEUE.forget()
            (state,) = Campaign.open(self.campaign.folder).state()
            return word_of(state), state.message

        def kill(self, *words):
            """KILL for all its processes, or those alone whose command line has one of the words."""
            for process in processes_of(self.campaign.folder):
                if not words or any(word in " ".join(process.cmdline()) for word in words):
                    with suppress(ProcessLookupError):  # it has ended with another one
                        os.kill(process.pid, signal.SIGKILL)

        def seen_from_another_host(self):
            """As a login node sees it, which can tell nothing from the lock of a node."""
            path = self.folder / "cell.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), "host": ELSEWHERE}))

        def in_the_queue(self):
            return cluster.run("squeue", "-h", "-j", self.job, "-o", "%T").strip()

    return Cell()


def test_a_cell_whose_node_died_waits_in_the_queue_and_does_not_train(cluster, cell):
    node = read_attempt(cell.folder).node
    assert cell.state() == ("running", "training")
    cluster.kill_node(node)
    try:
        cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=dead")
        wait_for(lambda: cell.in_the_queue() == "PENDING", 60)
        assert read_attempt(cell.folder).exit_code is None  # it could leave no word
        assert cell.state() == ("waiting", "waiting to continue")
        cell.seen_from_another_host()
        assert cell.state() == ("waiting", "waiting to continue")
        (cell.folder / "submission.json").unlink()  # as if the sweep had been killed before it could write it
        assert cell.state() == ("waiting", "waiting to continue")
    finally:
        cluster.run("scancel", cell.job)
        cluster.start_node(node)


def test_a_cell_whose_program_was_killed_is_interrupted_and_resume_goes_on_with_it(cell):
    cell.kill("cell_program.py")
    wait_for(lambda: cell.in_the_queue() == "", 60)
    attempt = read_attempt(cell.folder)
    assert attempt.exit_code == 128 + signal.SIGKILL
    assert cell.state()[0] == "interrupted"
    assert cell.state()[1].startswith(f"killed on {attempt.node} (SIGKILL)")
    (last,) = cell.campaign.run(commands=cell_commands(), poll_s=0.1)
    assert (last.state, last.attempt) == ("done", 1)
    assert cell.epochs() == [str(epoch) for epoch in range(1, 41)]


def test_a_cell_of_which_everything_was_killed_is_interrupted(cell):
    cell.kill()
    wait_for(lambda: cell.in_the_queue() == "", 60)
    assert cell.state()[0] == "interrupted"
    assert cell.state()[1].startswith("its job ended without a word")


def test_a_killed_cell_does_not_run_for_ever_in_the_tables(cell, tmp_path):
    """Its run.json says `running`: it could not write another word."""
    manifest = cell.campaign.record.shards / "manifest.json"
    recipe = {"recipe": {"size": [32, 32, 16]}}
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **recipe}))

    def status():
        assert write_gaps(cell.campaign) == []
        (row,) = collect(cell.campaign.folder, tmp_path / "tables").tables["runs"].to_pylist()
        return row["status"]

    assert status() == "running"
    cell.kill()
    wait_for(lambda: cell.in_the_queue() == "", 60)
    assert status() == "interrupted"
    cell.campaign.run(commands=cell_commands(), poll_s=0.1)
    assert status() == "complete"


def test_a_job_that_is_put_back_after_its_cell_was_killed_waits(cluster, cell):
    cell.kill("cell_program.py")
    wait_for(lambda: cell.in_the_queue() == "", 60)
    cluster.run("scontrol", "requeue", cell.job)
    wait_for(lambda: cell.in_the_queue() == "PENDING", 60)
    assert cell.state() == ("waiting", "waiting to continue")


def test_a_job_that_follows_a_killed_one_waits_and_does_not_train_yet(cluster, cell):
    cell.kill()
    wait_for(lambda: cell.in_the_queue() == "", 60)
    cluster.run("scontrol", "update", "partitionname=cpu", "state=down")  # what is submitted has to wait
    try:
        cell.campaign.submit(commands=cell_commands())
        assert read_attempt(cell.folder).exit_code is None
        word, message = cell.state()
        assert (word, message.partition(";")[0]) == ("waiting", "starting")
        cluster.run("scancel", cell.submission().job_id)
        wait_for(lambda: not cluster.run("squeue", "-h"), 60)
        assert cell.state()[0] == "interrupted"
    finally:
        cluster.run("scontrol", "update", "partitionname=cpu", "state=up")


def test_a_running_job_that_nobody_could_record_runs(cluster, cell):
    """The sweep was killed between sbatch and the file that says so."""
    cell.seen_from_another_host()
    (cell.folder / "submission.json").unlink()
    assert cell.state() == ("running", "training")
    cluster.run("scancel", cell.job)
    wait_for(lambda: cell.in_the_queue() == "" and not processes_of(cell.campaign.folder), 60)


@pytest.mark.parametrize("name", ["SQUEUE_STATES=RUNNING", "SQUEUE_PARTITION=gpu_t4", "SQUEUE_NAMES=x"])
def test_what_a_user_has_squeue_show_him_hides_no_job(cluster, monkeypatch, name):
    held = cluster.run("sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap", "true").strip()
    variable, _, value = name.partition("=")
    monkeypatch.setenv(variable, value)
    assert held not in cluster.run("squeue", "-h", "-o", "%i")
    assert Queue().state(held) == "PENDING"
    monkeypatch.delenv(variable)


def test_how_a_job_ended_is_unknown_while_nobody_answers_and_empty_where_nobody_knows_it(cluster, monkeypatch):
    failed = cluster.run("sbatch", "--parsable", "--output=/dev/null", "--wrap", "false").strip()
    wait_for(lambda: not cluster.run("squeue", "-h", "-j", failed), 60)
    assert (end_of(failed), end_of("999999")) == ("FAILED", "")
    monkeypatch.setenv("SLURM_CONF", "/dev/null")
    assert end_of(failed) == SILENT


def test_a_cell_is_not_judged_before_slurm_says_how_its_job_ended(cell, monkeypatch):
    cell.kill()
    wait_for(lambda: cell.in_the_queue() == "", 60)
    submission, attempt = cell.submission(), read_attempt(cell.folder)
    with monkeypatch.context() as silence:
        silence.setenv("SLURM_CONF", "/dev/null")
        with pytest.raises(NoAnswer):
            ending_of(cell.folder, submission, attempt, SLURM, tries_allowed=3, mem_gb=None)
    assert ending_of(cell.folder, submission, attempt, SLURM, tries_allowed=3, mem_gb=None).again


@pytest.mark.parametrize("progress", [True, False])
def test_a_cell_that_was_warned_and_that_nobody_put_back_is_run_again_if_it_got_further(cell, progress):
    """The controller was silent when the job asked to be queued again, and the job ended."""
    cell.kill()
    wait_for(lambda: cell.in_the_queue() == "", 60)
    saved = -1 if progress else newest_state(cell.folder)
    changes = {"exit_code": 75, "asked": "SIGUSR2", "state_saved": saved}
    warned = read_attempt(cell.folder).model_copy(update=changes)
    ending = ending_of(cell.folder, cell.submission(), warned, SLURM, tries_allowed=3, mem_gb=None)
    assert (ending is not None and ending.again) is progress


def test_where_there_is_no_slurm_a_campaign_is_shown_and_nothing_is_waited_for(make_campaign, monkeypatch, tmp_path):
    campaign = make_campaign(site=SITE, seeds=(0,))
    monkeypatch.setenv("PATH", str(tmp_path))
    for act in (Campaign.run, Campaign.submit, cancel):
        with pytest.raises(
            ConfigError, match=r"no sbatch, squeue, scancel, scontrol on the PATH; work on a login node"
        ):
            act(campaign)
    assert campaign.state()[0].state == "pending"
    assert Queue().remark("1") == "no squeue on this machine: ask on the cluster"
