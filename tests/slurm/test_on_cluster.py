"""Campaigns on a real SLURM: the tests' private cluster (cluster.py) and the stand-in program (cell_program.py)."""

import json
import os
import signal
import sys
import time
from typing import Any

import pytest

from mspipeline.campaigns.attempt import read_attempt
from mspipeline.campaigns.campaign import Campaign
from mspipeline.campaigns.cancel import cancel
from mspipeline.campaigns.follow import CellsFailed
from mspipeline.campaigns.job_shape import JobShape
from mspipeline.campaigns.site import Partition, Site
from mspipeline.campaigns.submission import CellSubmission, read_submission
from mspipeline.errors import ConfigError, Interrupted, Preempted
from mspipeline.slurm.srun import srun_words
from mspipeline.slurm.submission.queue import QUEUE, Queue
from tests.campaigns.campaign_program import cell_commands
from tests.campaigns.process_watch import processes_of, wait_for
from tests.campaigns.submitting import submit, submit_together

pytestmark = pytest.mark.slurm

FIRST, SECOND = "unet2d-tensorflow-s0", "unet2d-tensorflow-s1"
CPU = Partition(cpus=1, mem_gb=0.5, time_min=5)
SITE = Site(name="cluster", executor="slurm", partitions={"cpu": CPU}, warn_s=30)


def lines(campaign, cell, name):
    path = campaign.folder / "cells" / cell / name
    return path.read_text().splitlines() if path.exists() else []


def run(campaign, *options, **keywords):
    return campaign.run(commands=cell_commands(*options), poll_s=0.1, **keywords)


def states(campaign):
    return [state.state for state in campaign.state()]


def one(tmp_path, *words, site=SITE, device="cpu"):
    """One job with one command."""
    return submit(site, device, "one", [list(words)], tmp_path / "cell", tmp_path / "logs")


def ended(cluster, handle):
    """The record of a job's attempt once it has left the queue."""
    wait_for(handle.ended, 60)
    return read_attempt(handle.submission.logs.parent / "cell")


def test_cells_run_at_one_time_and_are_done_when_the_queue_has_let_them_go(cluster, make_campaign):
    campaign = make_campaign(site=SITE)
    seen: list[Any] = []
    last = run(campaign, "--epoch-seconds", "0.5", observer=seen.append)
    assert [(state.id, state.state, state.exit_code) for state in last] == [(FIRST, "done", 0), (SECOND, "done", 0)]
    assert max(sum(state.state == "running" for state in table) for table in seen) == 2
    assert lines(campaign, FIRST, "starts.txt") == ["train", "evaluate"]
    assert lines(campaign, FIRST, "epochs.txt") == ["1", "2", "3"]
    assert cluster.run("squeue", "-h") == ""
    job = read_submission(campaign.cells[0].train.run_folder).job_id
    asked = ("sacct", "-nPX", "-j", job, "-o", "State,Partition,AllocCPUS,ReqMem,TimelimitRaw")
    wait_for(lambda: cluster.run(*asked).strip() == "COMPLETED|cpu|1|512M|5")


def test_a_failed_cell_is_named_with_its_last_words_and_the_other_one_runs(cluster, make_campaign):
    campaign = make_campaign(site=SITE)
    with pytest.raises(CellsFailed, match=rf"1 of 2 cells failed: {FIRST} \(code 65: error: sub-01: the truth is not"):
        run(campaign, "--fail-seed", "0")
    assert states(campaign) == ["failed", "done"]


def test_ctrl_c_cancels_the_jobs_in_order_and_resume_completes_them(cluster, make_campaign, start_campaign):
    campaign = make_campaign(site=SITE, epochs=6)
    process = start_campaign(campaign, "--epoch-seconds", "0.5")
    wait_for(lambda: all(len(lines(campaign, cell, "epochs.txt")) >= 2 for cell in (FIRST, SECOND)), 60)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    assert cluster.run("squeue", "-h") == ""
    assert processes_of(campaign.folder) == []
    (stopped,) = lines(campaign, FIRST, "stopped.txt")
    assert set(json.loads(stopped)) == {signal.SIGTERM}  # from SLURM itself, and passed on: it may come twice
    assert [(state.state, state.exit_code) for state in campaign.state()] == [("interrupted", 75)] * 2

    run(campaign)
    assert states(campaign) == ["done", "done"]
    assert lines(campaign, FIRST, "epochs.txt") == ["1", "2", "3", "4", "5", "6"]


def test_jobs_that_wait_are_cancelled_too(cluster, make_campaign):
    site = SITE.model_copy(update={"partitions": {"cpu": CPU.model_copy(update={"cpus": 4})}})
    campaign = make_campaign(site=site, seeds=(0, 1, 2), epochs=100)

    def press_ctrl_c(table):
        if sum(state.epoch > 0 for state in table) == 2:  # two nodes: the third cell waits
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        run(campaign, "--epoch-seconds", "0.3", observer=press_ctrl_c)
    assert cluster.run("squeue", "-h") == ""
    assert states(campaign) == ["interrupted"] * 3


def test_a_killed_campaign_is_taken_over_while_its_cells_run_on(cluster, make_campaign, start_campaign):
    campaign = make_campaign(site=SITE, epochs=6)
    process = start_campaign(campaign, "--epoch-seconds", "0.5")
    wait_for(lambda: all(lines(campaign, cell, "epochs.txt") for cell in (FIRST, SECOND)), 60)
    process.kill()
    process.wait()
    assert states(campaign) == ["running", "running"]
    before = cluster.run("squeue", "-h", "-o", "%i")

    run(Campaign.open(campaign.folder))
    assert states(campaign) == ["done", "done"]
    assert lines(campaign, FIRST, "starts.txt") == ["train", "evaluate"]
    assert len(before.split()) == 2
    wait_for(lambda: cluster.run("squeue", "-h") == "")
    assert not (campaign.folder / "cells" / FIRST / "two-at-once").exists()


def test_cancel_stops_cells_whose_campaign_died(cluster, make_campaign, start_campaign):
    campaign = make_campaign(site=SITE, epochs=100)
    process = start_campaign(campaign, "--epoch-seconds", "0.3")
    wait_for(lambda: all(lines(campaign, cell, "epochs.txt") for cell in (FIRST, SECOND)), 60)
    process.kill()
    process.wait()
    assert [state.state for state in cancel(campaign, grace_s=60)] == ["interrupted", "interrupted"]
    wait_for(lambda: cluster.run("squeue", "-h") == "")


def test_a_job_cancelled_by_somebody_else_is_told_and_not_started_again(cluster, make_campaign):
    campaign = make_campaign(site=SITE, seeds=(0,), epochs=100)

    def scancel(table):
        if table[0].epoch:
            cluster.run("scancel", read_submission(campaign.cells[0].train.run_folder).job_id)

    with pytest.raises(Preempted, match=rf"1 of 1 cells ended early: {FIRST} \(stopped with code 75"):
        run(campaign, "--epoch-seconds", "0.3", observer=scancel)
    assert lines(campaign, FIRST, "starts.txt") == ["train"]


def test_a_cell_has_the_time_that_it_needs_to_save_its_state(cluster, tmp_path):
    """scancel gives KillWait seconds (10 here), though the shell of the batch script dies of the TERM at once."""
    saves = "trap 'sleep 4; echo saved; exit 75' TERM; echo ready; while :; do sleep 0.1; done"
    handle = one(tmp_path, "bash", "-c", saves)
    log = handle.submission.log
    wait_for(lambda: log.exists() and "ready\n" in log.read_text(), 60)
    cluster.run("scancel", handle.submission.job_id)
    assert ended(cluster, handle).exit_code == 75
    assert "saved\n" in log.read_text()


@pytest.mark.slow
def test_a_cell_that_does_not_hear_is_killed_in_the_end(cluster, tmp_path):
    handle = one(tmp_path, "bash", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done")
    wait_for(lambda: handle.submission.log.exists() and "ready\n" in handle.submission.log.read_text(), 60)
    cluster.run("scancel", handle.submission.job_id)
    assert ended(cluster, handle).exit_code is None
    assert processes_of(tmp_path) == []


def test_cells_of_one_shape_are_one_array_that_keeps_to_the_sites_limit(cluster, tmp_path):
    orders = [
        CellSubmission(f"cell{number}", [["bash", "-c", f"echo cell {number}; sleep 1"]], tmp_path / f"cell{number}")
        for number in range(6)
    ]
    site = SITE.model_copy(update={"max_parallel": 2})
    handles = submit_together(site, "cpu", orders, tmp_path / "logs", name="six")
    base = handles[0].submission.job_id.partition("_")[0]
    assert [handle.submission.job_id for handle in handles] == [f"{base}_{number}" for number in range(6)]
    assert "ArrayTaskThrottle=2" in cluster.run("scontrol", "show", "job", base)
    most = 0
    while any(not handle.ended() for handle in handles):
        most = max(most, len(cluster.run("squeue", "-h", "-r", "-t", "running").splitlines()))
        time.sleep(0.05)
    assert most == 2
    for number, handle in enumerate(handles):
        record = read_attempt(tmp_path / f"cell{number}")
        assert (record.exit_code, record.job_id) == (0, handle.submission.job_id)
        assert f"cell {number}\n" in record.log.read_text()
        assert record.log == handle.submission.log


def test_a_cell_without_a_time_limit_has_that_of_its_partition(cluster, tmp_path):
    site = SITE.model_copy(update={"partitions": {"cpu": CPU.model_copy(update={"time_min": None})}})
    handle = one(tmp_path, "sleep", "60", site=site)
    (limit,) = cluster.run("sinfo", "-h", "-p", "cpu", "-o", "%L").split()
    shown = cluster.run("squeue", "-h", "-j", handle.submission.job_id, "-o", "%l").strip()
    (most,) = cluster.run("sinfo", "-h", "-p", "cpu", "-o", "%l").split()
    assert shown.lower() == (most if limit == "n/a" else limit).lower()


def test_a_gpu_cell_sees_the_gpu_that_it_was_given(cluster, tmp_path):
    site = Site(name="c", executor="slurm", partitions={"gpu_t4": Partition(device="gpu", gres="gpu:t4:1", time_min=5)})
    handle = one(tmp_path, "bash", "-c", "echo gpu:$CUDA_VISIBLE_DEVICES", site=site, device="gpu")
    ended(cluster, handle)
    assert "gpu:0\n" in handle.submission.log.read_text()


def test_each_process_of_a_cell_on_gpus_sees_them_and_its_own_cores(cluster, tmp_path):
    gpu = Partition(device="gpu", gres="gpu:t4:2", cpus=2, mem_gb=0.5, time_min=5)
    site = Site(name="c", executor="slurm", partitions={"gpu_t4": gpu}, warn_s=30)
    say = ["bash", "-c", "echo rank $SLURM_PROCID gpus $CUDA_VISIBLE_DEVICES cores $SLURM_CPUS_PER_TASK"]
    order = CellSubmission("two", [say], tmp_path / "cell", launchers=[[*srun_words(mpi="none", cpus=2), "--ntasks=2"]])
    (handle,) = submit_together(site, "gpu", [order], tmp_path / "logs", name="two", shape=JobShape(tasks=2))
    assert ended(cluster, handle).exit_code == 0
    said = [line for line in handle.submission.log.read_text().splitlines() if line.startswith("rank ")]
    assert sorted(said) == [f"rank {number} gpus 0,1 cores 2" for number in (0, 1)]


def test_the_scratch_folder_of_a_site_is_made_and_is_the_cells_tmpdir(cluster, tmp_path):
    site = SITE.model_copy(update={"scratch": f"{tmp_path}/scratch/$SLURM_JOB_ID"})
    handle = one(tmp_path, "bash", "-c", "touch $TMPDIR/here", site=site)
    assert ended(cluster, handle).exit_code == 0
    assert (tmp_path / "scratch" / handle.submission.job_id / "here").exists()


def test_a_partition_that_does_not_exist_is_refused_by_sbatch_in_one_line(cluster, tmp_path):
    site = Site(name="cluster", executor="slurm", partitions={"cores": Partition()})
    with pytest.raises(ConfigError, match=r"site cluster: cannot submit one to slurm: .*invalid partition") as refusal:
        one(tmp_path, "true", site=site)
    assert "\n" not in str(refusal.value)


STOPS_ONCE = """
trap 'echo stopped; exit 75' TERM USR2
echo start $SLURM_RESTART_COUNT
[ "$SLURM_RESTART_COUNT" = 1 ] && exit 0
while :; do sleep 0.1; done
"""


@pytest.mark.parametrize("kind", ["requeue", "preemption", "warning"])
def test_a_job_that_is_put_back_into_the_queue_is_not_over_and_runs_again(cluster, tmp_path, kind):
    handle = one(tmp_path, "bash", "-c", STOPS_ONCE)
    log, job = handle.submission.log, handle.submission.job_id
    wait_for(lambda: log.exists() and "start" in log.read_text(), 60)
    if kind == "requeue":
        cluster.run("scontrol", "requeue", job)
    elif kind == "preemption":
        cluster.run("sbatch", "-p", "urgent", "-N2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 2")
    else:
        cluster.run("scancel", "--signal=USR2", job)  # what SLURM sends warn_s before the time limit
    wait_for(lambda: "stopped" in log.read_text(), 30)
    wait_for(lambda: "PENDING" in cluster.run("squeue", "-h", "-j", job, "-o", "%T"), 30)
    assert not handle.ended()
    QUEUE.forget()
    assert not handle.ended()
    assert handle.job.done(force_check=True)  # what submitit says: the first attempt left a result
    cluster.start_again(job)
    assert ended(cluster, handle).exit_code == 0
    assert [line for line in log.read_text().splitlines() if line.startswith("start")] == ["start", "start 1"]


def test_a_queue_that_nobody_answers_for_is_unknown_and_one_without_the_job_says_it_is_over(cluster, monkeypatch):
    assert Queue().state("999999") is None
    monkeypatch.setenv("SLURM_CONF", "/dev/null")
    assert Queue().state("999999") == "UNKNOWN"


def test_the_cells_of_a_campaign_are_one_array_and_its_limit_that_of_the_site(cluster, make_campaign):
    campaign = make_campaign(site=SITE.model_copy(update={"max_parallel": 2}), seeds=(0, 1, 2, 3))
    seen: list[Any] = []
    run(
        campaign, "--epoch-seconds", "0.3", observer=lambda _: seen.append(cluster.run("squeue", "-h", "-r", "-t", "R"))
    )
    assert states(campaign) == ["done"] * 4
    jobs = [read_submission(cell.train.run_folder).job_id for cell in campaign.cells]
    base = jobs[0].partition("_")[0]
    assert jobs == [f"{base}_{number}" for number in range(4)]
    assert max(len(table.splitlines()) for table in seen) == 2
    assert lines(campaign, FIRST, "starts.txt") == ["train", "evaluate"]


def test_a_preempted_cell_reads_as_waiting_and_the_campaign_goes_on_by_itself(cluster, make_campaign):
    campaign = make_campaign(site=SITE, seeds=(0,), epochs=16)
    folder = campaign.cells[0].train.run_folder
    seen: list[Any] = []

    def preempt_once(table):
        seen.append((table[0].state, table[0].message))
        if table[0].epoch >= 2 and not lines(campaign, FIRST, "stopped.txt"):
            cluster.run("sbatch", "-p", "urgent", "-N2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1")
            wait_for(lambda: lines(campaign, FIRST, "stopped.txt"), 30)
        if cluster.run("squeue", "-h", "-t", "PENDING", "-p", "cpu"):
            cluster.start_again(read_submission(folder).job_id)

    (state,) = run(campaign, "--epoch-seconds", "0.5", observer=preempt_once)
    assert (state.state, state.attempt) == ("done", 1)
    assert ("running", "waiting to continue") in seen
    assert {state for state, _ in seen} == {"running", "done"}
    assert lines(campaign, FIRST, "epochs.txt") == [str(epoch) for epoch in range(1, 17)]


def test_a_cell_that_waits_to_continue_is_cancelled_like_any_other(cluster, make_campaign, start_campaign):
    campaign = make_campaign(site=SITE, seeds=(0,), epochs=100)
    process = start_campaign(campaign, "--epoch-seconds", "0.3")
    wait_for(lambda: lines(campaign, FIRST, "epochs.txt"), 60)
    cluster.run("scontrol", "requeue", read_submission(campaign.cells[0].train.run_folder).job_id)
    wait_for(lambda: campaign.state()[0].message == "waiting to continue", 60)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    assert cluster.run("squeue", "-h") == ""
    assert states(campaign) == ["interrupted"]


THREADS = "from mspipeline.jobs.work.resources import threads_for; print('threads', threads_for(0))"


def test_where_nothing_binds_a_cell_has_as_many_threads_as_cores_that_it_asked_for(cluster, tmp_path):
    handle = one(tmp_path, sys.executable, "-P", "-c", THREADS)
    assert ended(cluster, handle).exit_code == 0
    assert "threads 1" in handle.submission.log.read_text().splitlines()  # and the machine may have more
