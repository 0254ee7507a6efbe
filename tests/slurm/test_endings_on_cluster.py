"""Campaigns on a real SLURM that meet memory limits, dead nodes, refused launches and a controller that is down."""

import os
import signal
import threading
import time

import pytest

from mspipeline.campaigns import before_and_after
from mspipeline.campaigns.attempt import read_attempt
from mspipeline.campaigns.campaign import Campaign
from mspipeline.campaigns.follow import CellsFailed
from mspipeline.campaigns.schedulers import scheduler_named
from mspipeline.campaigns.site import Partition, Site
from mspipeline.campaigns.submission import CellSubmission, read_submission
from mspipeline.errors import Interrupted
from mspipeline.slurm.submission.queue import QUEUE, Queue
from tests.campaigns.campaign_program import cell_commands
from tests.campaigns.process_watch import processes_of, wait_for
from tests.campaigns.submitting import submit_together

pytestmark = pytest.mark.slurm

ONE = "unet2d-tensorflow-s0"
CPU = Partition(cpus=1, mem_gb=0.5, time_min=5)
SITE = Site(name="cluster", executor="slurm", partitions={"cpu": CPU}, warn_s=30)


def run(campaign, *options, **keywords):
    return campaign.run(commands=cell_commands(*options), poll_s=0.1, **keywords)


def lines(campaign, name, cell=ONE):
    path = campaign.folder / "cells" / cell / name
    return path.read_text().splitlines() if path.exists() else []


def job_of(campaign):
    return read_submission(campaign.cells[0].train.run_folder).job_id


def node_of(cluster, campaign):
    return cluster.run("squeue", "-h", "-j", job_of(campaign), "-o", "%N").strip()


class Later:
    """Does something once, in a thread, when a campaign's cells have got far enough."""

    def __init__(self, ready, act):
        self._ready, self._act, self.tables, self._thread = ready, act, [], None

    def __call__(self, table):
        self.tables.append(table)
        if self._thread is None and self._ready(table):
            self._thread = threading.Thread(target=self._act)
            self._thread.start()

    def join(self):
        self._thread.join(60)


def test_a_cell_over_its_memory_limit_is_told_with_peak_and_better_limit_and_not_run_again(cluster, make_campaign):
    campaign = make_campaign(site=SITE, seeds=(0,))
    with pytest.raises(
        CellsFailed, match=r"killed by its memory limit at 0\.\d\d GB of 0\.5; set mem_gb = 1(\.5)? or more"
    ):
        run(campaign, "--eat-mib", "700")
    assert lines(campaign, "starts.txt") == ["train"]


def test_a_cell_whose_processes_are_killed_is_run_again_by_the_campaign(cluster, make_campaign):
    campaign = make_campaign(site=SITE, seeds=(0,), epochs=8)

    def kill_all():
        for process in processes_of(campaign.folder):
            os.kill(process.pid, signal.SIGKILL)

    kill = Later(lambda table: table[0].epoch >= 2, kill_all)
    (state,) = run(campaign, "--epoch-seconds", "0.3", observer=kill)
    assert (state.state, state.attempt) == ("done", 1)
    assert lines(campaign, "epochs.txt") == [str(epoch) for epoch in range(1, 9)]


def test_a_dead_nodes_cell_goes_on_elsewhere_from_its_last_state(cluster, make_campaign):
    campaign = make_campaign(site=SITE, seeds=(0,), epochs=30)
    nodes = []

    def cut_the_power():
        nodes.append(node_of(cluster, campaign))
        cluster.kill_node(nodes[0])
        # What the controller finds out by itself after SlurmdTimeout.
        cluster.run("scontrol", "update", f"nodename={nodes[0]}", "state=down", "reason=dead")
        cluster.start_again(job_of(campaign))

    power_cut = Later(lambda table: table[0].epoch >= 2, cut_the_power)
    try:
        (state,) = run(campaign, "--epoch-seconds", "0.2", observer=power_cut)
    finally:
        cluster.start_node(nodes[0])
    assert (state.state, state.attempt) == ("done", 1)
    assert read_attempt(campaign.cells[0].train.run_folder).node not in (None, nodes[0])
    assert {table[0].state for table in power_cut.tables} <= {"pending", "running", "done"}
    assert not (campaign.folder / "cells" / ONE / "two-at-once").exists()


@pytest.mark.long  # after the test of a dead node a restarted controller may requeue what runs: alone it holds
def test_a_controller_that_is_down_fails_resubmits_and_loses_nothing(cluster, make_campaign, monkeypatch):
    campaign = make_campaign(site=SITE, epochs=24)
    monkeypatch.setattr("mspipeline.slurm.submission.queue.QUEUE._patience_s", 2.0)
    others = cluster.run("squeue", "-h", "-o", "%A").split()  # a test before this one may have left a job to end
    went = []

    def outage():
        cluster.stop_controller()
        time.sleep(8)
        went.append(campaign.state())
        cluster.start_controller()

    down = Later(lambda table: all(state.epoch >= 2 for state in table), outage)
    last = run(campaign, "--epoch-seconds", "0.3", observer=down)
    down.join()
    assert [(state.state, state.attempt) for state in last] == [("done", 0)] * 2
    said = {table[0].message for table in down.tables}
    assert "training; SLURM does not answer; what runs goes on" in said
    assert {state.state for table in down.tables for state in table} <= {"pending", "running", "done"}
    for cell in campaign.cells:
        assert lines(campaign, "starts.txt", cell.id) == ["train", "evaluate"]
    assert set(cluster.run("squeue", "-h", "-o", "%A").split()) <= set(others)


@pytest.mark.long
def test_a_cell_that_dies_while_the_controller_is_down_is_run_again_when_it_is_back(
    cluster, make_campaign, monkeypatch
):
    campaign = make_campaign(site=SITE, seeds=(0,), epochs=8)
    monkeypatch.setattr("mspipeline.slurm.submission.queue.QUEUE._patience_s", 2.0)

    def outage():
        cluster.stop_controller()
        for process in processes_of(campaign.folder):
            os.kill(process.pid, signal.SIGKILL)
        time.sleep(8)
        cluster.start_controller()

    down = Later(lambda table: table[0].epoch >= 2, outage)
    (state,) = run(campaign, "--epoch-seconds", "0.4", observer=down)
    down.join()
    assert (state.state, state.attempt) == ("done", 1)
    assert lines(campaign, "epochs.txt") == [str(epoch) for epoch in range(1, 9)]


@pytest.mark.long
def test_a_job_held_after_a_failed_launch_is_let_go_once(cluster, make_campaign):
    campaign = make_campaign(site=SITE, seeds=(0,))
    cluster.fail_prologs(True)
    seen = []

    def repair(table):
        seen.append(table[0].message)
        if "could not start" in table[0].message:
            cluster.fail_prologs(False)
            cluster.resume_nodes()

    (state,) = run(campaign, observer=repair)
    assert state.state == "done"
    assert any("a node could not start it (launch failed requeued held)" in message for message in seen)


@pytest.mark.long
def test_a_job_that_fails_to_launch_again_is_taken_out_and_told(cluster, make_campaign):
    campaign = make_campaign(site=SITE, seeds=(0,))
    cluster.fail_prologs(True)
    with pytest.raises(CellsFailed, match=r"never starts: a node could not start it \(launch failed requeued held\)"):
        run(campaign, observer=lambda _: cluster.resume_nodes())
    assert cluster.run("squeue", "-h") == ""
    assert Campaign.open(campaign.folder).state()[0].state == "failed"


def test_a_job_that_will_never_start_is_taken_out_and_told_with_what_to_do(cluster, make_campaign, monkeypatch):
    monkeypatch.setattr("mspipeline.campaigns.follow.HOPELESS_S", 3.0)
    campaign = make_campaign(site=SITE, seeds=(0,))
    cluster.run("scontrol", "update", "partitionname=cpu", "maxtime=1")
    try:
        with pytest.raises(CellsFailed, match=r"never starts: PartitionTimeLimit: .* lower time_min in the site file"):
            run(campaign)
    finally:
        cluster.run("scontrol", "update", "partitionname=cpu", "maxtime=infinite")
    assert cluster.run("squeue", "-h") == ""


def test_why_a_job_waits_is_asked_and_told(cluster):
    held = cluster.run("sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap", "true").strip()
    assert (Queue().state(held), Queue().reason(held)) == ("PENDING", "JobHeldUser")
    assert Queue().remark(held) == f"held; `scontrol release {held}` lets it go"
    failed = cluster.run("sbatch", "--parsable", "--output=/dev/null", "--wrap", "false").strip()
    after = ("sbatch", "--parsable", f"--dependency=afterok:{failed}", "--output=/dev/null", "--wrap", "true")
    waits = cluster.run(*after).strip()
    wait_for(lambda: Queue().remark(waits) == "DependencyNeverSatisfied: a job that it waits for has failed", 60)
    QUEUE.forget()


def test_a_job_put_back_and_held_by_somebody_reads_as_waiting_and_is_left_to_him(cluster, make_campaign):
    campaign = make_campaign(site=SITE, seeds=(0,), epochs=100)
    said = "waiting to continue; held; `scontrol release"

    def hold(table):
        if table[0].epoch and not lines(campaign, "stopped.txt"):
            cluster.run("scontrol", "requeuehold", "state=SpecialExit", job_of(campaign))
            wait_for(lambda: lines(campaign, "stopped.txt"), 30)
        if table[0].message.startswith(said) and Queue().state(job_of(campaign)) == "SPECIAL_EXIT":
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        run(campaign, "--epoch-seconds", "0.3", observer=hold)
    assert cluster.run("squeue", "-h") == ""


UNKNOWN = "Lmod has detected the following error:  cuda/12 is unknown"
MODULE = f'() {{ [ "$2" != cuda/12 ] || {{ echo "{UNKNOWN}" >&2; return 1; }}; }}'


@pytest.mark.parametrize("packed", [1, 2])
def test_a_module_that_does_not_load_ends_the_cells_with_its_message_and_they_are_not_run_again(
    cluster, make_campaign, monkeypatch, packed
):
    monkeypatch.setenv("BASH_FUNC_module%%", MODULE)
    cpu = CPU.model_copy(update={"pack": packed})
    site = SITE.model_copy(update={"modules": ("gcc/12", "cuda/12"), "partitions": {"cpu": cpu}})
    campaign = make_campaign(site=site)
    reason = (
        r"`module load cuda/12` failed on c[12] \(Lmod has detected the following error:  cuda/12 is unknown\); correct"
    )
    with pytest.raises(CellsFailed, match=f"2 of 2 cells failed: .*{reason} modules in the site file"):
        run(campaign)
    assert [state.state for state in Campaign.open(campaign.folder).state()] == ["failed", "failed"]
    assert lines(campaign, "starts.txt") == []
    assert len(list((campaign.folder / "logs").glob("*/*"))) == 1  # submitted once


def test_a_preparation_that_its_time_limit_ends_is_called_so(cluster, tmp_path):
    folder = tmp_path / "campaign"
    deaf = ["bash", "-c", "trap '' USR2 TERM; echo begun; while :; do sleep 0.2; done"]
    slurm = scheduler_named("slurm")
    prepare = CellSubmission("prepare", [deaf], folder / "prepare")
    shape = before_and_after.prepare_shape(1)
    there = submit_together(SITE, "cpu", [prepare], folder / "logs", name="prepare", shape=shape)[0].submission
    wait_for(lambda: there.log.exists() and "begun" in there.log.read_text(), 60)
    cluster.run("scontrol", "update", f"JobId={there.job_id}", "EndTime=now+1seconds")
    QUEUE.forget()
    wait_for(lambda: before_and_after.step_state(folder, "prepare", slurm).state != "running", 120)
    found = before_and_after.step_state(folder, "prepare", slurm)
    assert (found.state, found.message) == ("interrupted", f"TIMEOUT: {before_and_after.TIMED_OUT}")


def test_a_job_that_waited_while_the_suite_was_upgraded_is_submitted_again(cluster, make_campaign):
    """Its pickle names a module that is no longer there (docs/decisions/0019-schedulers.md)."""
    campaign = make_campaign(site=SITE, seeds=(0,))
    cluster.run("scontrol", "update", "nodename=ALL", "state=drain", "reason=upgrade")
    campaign.submit(commands=cell_commands())
    (cell,) = campaign.cells
    first = read_submission(cell.train.run_folder).job_id
    (pickled,) = campaign.folder.glob("logs/**/*_submitted.pkl")
    content = pickled.read_bytes()
    assert b"mspipeline.slurm.on_node.element" in content
    pickled.write_bytes(content.replace(b"slurm.on_node.element", b"slurm.inside_.element"))
    cluster.resume_nodes()
    (state,) = run(campaign)
    assert (state.state, state.attempt) == ("done", 0)
    assert read_submission(cell.train.run_folder).job_id != first
