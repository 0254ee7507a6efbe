"""A campaign that somebody looks at, or takes over, from another terminal."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from mspipeline.campaigns.attempt import read_attempts
from mspipeline.campaigns.campaign import Campaign
from mspipeline.campaigns.cancel import cancel
from mspipeline.campaigns.site import Partition, Site
from mspipeline.campaigns.submission import read_submission
from tests.campaigns.campaign_program import cell_commands
from tests.campaigns.process_watch import wait_for

FIRST, SECOND = "unet2d-tensorflow-s0", "unet2d-tensorflow-s1"
MSPIPELINE = [sys.executable, "-c", "from mspipeline.cli import main; main()"]
SITE = Site(name="cluster", executor="slurm", partitions={"cpu": Partition(cpus=1, mem_gb=0.5, time_min=5)}, warn_s=30)


def lines(campaign, cell, name):
    path = campaign.folder / "cells" / cell / name
    return path.read_text().splitlines() if path.exists() else []


@contextmanager
def terminal(said, *words):
    """A command in the background; its process, and a function that gives what it has said so far."""
    with said.open("wb") as output:
        process = subprocess.Popen([*MSPIPELINE, *map(str, words)], stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process, said.read_text
    finally:
        process.kill()
        process.wait()


def test_watching_ends_with_the_campaign_or_with_ctrl_c_and_changes_nothing(make_campaign, start_campaign, tmp_path):
    campaign = make_campaign(epochs=10_000)
    process = start_campaign(campaign, "--epoch-seconds", "0.5")
    wait_for(lambda: lines(campaign, FIRST, "starts.txt"), 60)
    watching = ("status", campaign.folder, "--watch", "--every", "0.2")
    with terminal(tmp_path / "1", *watching) as (watcher, said), terminal(tmp_path / "2", *watching) as (other, seen):
        wait_for(lambda: f"{FIRST}: running" in seen() and f"{FIRST}: running" in said(), 120)
        os.kill(other.pid, signal.SIGINT)
        assert other.wait(60) == 0
        assert (process.poll(), watcher.poll()) == (None, None)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
        assert watcher.wait(60) == 0
        assert said().endswith("2 cells: 1 interrupted, 1 pending\n")
    assert lines(campaign, FIRST, "starts.txt") == ["train"]


def test_a_state_that_does_not_exist_and_two_ways_at_once_are_refused(make_campaign):
    campaign = make_campaign()
    for words, said in [
        (["--state", "fialed"], "did you mean 'failed'?"),
        (["--watch", "--json"], "--watch and --json exclude each other"),
    ]:
        done = subprocess.run(
            [*MSPIPELINE, "status", campaign.folder, *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert said in done.stderr


def test_a_named_cell_alone_is_run(make_campaign):
    campaign = make_campaign()
    (state,) = campaign.run(commands=cell_commands(), poll_s=0.05, only=[SECOND])
    assert (state.id, state.state) == (SECOND, "done")
    assert [state.state for state in campaign.state()] == ["pending", "done"]


WRITES_ON = """
trap 'echo stopped; exit 75' TERM
echo start $SLURM_RESTART_COUNT
[ "$SLURM_RESTART_COUNT" = 1 ] && { echo the end; exit 3; }
while :; do sleep 0.1; done
"""


@pytest.mark.slurm
def test_a_log_is_followed_across_a_requeue_to_the_cells_end(cluster, make_campaign, tmp_path):
    campaign = make_campaign(site=SITE, seeds=(0,))
    campaign.submit(commands=lambda cell: [["bash", "-c", WRITES_ON]])
    job = read_submission(campaign.cells[0].train.run_folder).job_id
    with terminal(tmp_path / "said", "logs", campaign.folder, "s0", "-f") as (follower, said):
        wait_for(lambda: "start" in said().splitlines(), 60)
        cluster.run("scontrol", "requeue", job)
        wait_for(lambda: "stopped" in said(), 60)
        cluster.start_again(job)
        assert follower.wait(90) == 0
        words = said().splitlines()
    own = [word for word in words if word in ("start", "stopped", "start 1", "the end") or word.startswith(FIRST)]
    own = [word for word in own if "has no log yet" not in word]  # said where the job had not begun
    assert own[:4] == ["start", "stopped", "start 1", "the end"]
    assert own[-1].startswith(f"{FIRST}: failed: code 3")
    assert [word.split(",")[0] for word in words if word.startswith("==>")] == [
        *(f"==> attempt {number} on {node_of(campaign, number)}" for number in (0, 1)),
    ]


def node_of(campaign, attempt):
    return read_attempts(campaign.cells[0].train.run_folder)[attempt].node


@pytest.mark.slurm
def test_of_two_that_take_over_a_dead_campaign_one_does_and_no_cell_runs_twice(cluster, make_campaign, start_campaign):
    campaign = make_campaign(site=SITE, epochs=10_000)
    process = start_campaign(campaign, "--epoch-seconds", "0.5")
    wait_for(lambda: all(lines(campaign, cell, "epochs.txt") for cell in (FIRST, SECOND)), 60)
    process.kill()
    process.wait()
    both = [start_campaign(Campaign.open(campaign.folder), "--epoch-seconds", "0.5") for _ in range(2)]
    wait_for(lambda: any(each.poll() is not None for each in both), 120)
    (refused,) = [each for each in both if each.poll() is not None]
    (follower,) = [each for each in both if each is not refused]
    assert refused.returncode == 2
    assert "already run by process" in refused.communicate()[1]
    assert {state.node for state in campaign.state()} <= {"c1", "c2"}
    cancel(Campaign.open(campaign.folder))
    assert follower.wait(120) == 130
    for cell in (FIRST, SECOND):
        assert lines(campaign, cell, "starts.txt") == ["train"]
        epochs = lines(campaign, cell, "epochs.txt")
        assert epochs == [str(epoch) for epoch in range(1, len(epochs) + 1)]
        assert not (campaign.folder / "cells" / cell / "two-at-once").exists()
