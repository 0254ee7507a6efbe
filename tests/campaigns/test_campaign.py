import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any

import psutil
import pytest

from mspipeline.campaigns.arrays import config_path, job_commands
from mspipeline.campaigns.attempt import read_attempt
from mspipeline.campaigns.campaign import Campaign
from mspipeline.campaigns.cancel import cancel
from mspipeline.campaigns.follow import CellsFailed
from mspipeline.campaigns.site import Partition, Site
from mspipeline.campaigns.submission import read_submission
from mspipeline.campaigns.sweep import Matrix, Sweep
from mspipeline.errors import BackendError, ConfigError, Interrupted, Preempted, RunFolderError, ShardError, UsageError
from tests.campaigns.campaign_program import cell_commands
from tests.campaigns.process_watch import processes_of, wait_for

FIRST, SECOND = "unet2d-tensorflow-s0", "unet2d-tensorflow-s1"


def lines(campaign, cell, name):
    path = campaign.folder / "cells" / cell / name
    return path.read_text().splitlines() if path.exists() else []


def run(campaign, *options, **keywords):
    return campaign.run(commands=cell_commands(*options), poll_s=0.05, **keywords)


def states(campaign):
    return [state.state for state in campaign.state()]


def test_two_cells_run_one_after_the_other_and_a_second_run_starts_nothing(make_campaign):
    campaign = make_campaign()
    seen: list[Any] = []
    last = run(campaign, "--epoch-seconds", "0.05", observer=seen.append)
    assert [(state.id, state.state) for state in last] == [(FIRST, "done"), (SECOND, "done")]
    assert lines(campaign, FIRST, "starts.txt") == ["train", "evaluate"]
    assert max(sum(state.state == "running" for state in table) for table in seen) == 1
    assert [state.state for state in seen[0]] == ["running", "pending"]
    assert (last[0].epoch, last[0].epochs, last[0].exit_code, last[0].attempt) == (3, 3, 0, 0)
    assert (last[0].train_dice, last[0].validation_dice) == (3 / 8, 3 / 16)

    before = {path: path.stat().st_mtime_ns for path in (campaign.folder / "cells").rglob("*")}
    assert run(Campaign.open(campaign.folder)) == last
    assert {path: path.stat().st_mtime_ns for path in (campaign.folder / "cells").rglob("*")} == before


def test_a_cell_whose_backend_is_absent_is_a_gap_that_a_later_run_fills(make_campaign):
    campaign = make_campaign()
    last = run(campaign, "--absent-seed", "1")
    assert [(state.state, state.message) for state in last] == [
        ("done", ""),
        ("absent", "backend x needs y, not installed here"),
    ]
    assert [state.state for state in run(campaign)] == ["done", "done"]


def test_a_campaign_in_which_no_cell_can_run_is_an_error(make_campaign):
    campaign = make_campaign(seeds=(1,))
    with pytest.raises(BackendError, match="no cell could run: backend x needs y"):
        run(campaign, "--absent-seed", "1")


def test_a_running_cell_tells_epoch_speed_and_time_left(make_campaign, start_campaign):
    campaign = make_campaign(seeds=(0,), epochs=50)
    process = start_campaign(campaign, "--epoch-seconds", "0.2")
    wait_for(lambda: len(lines(campaign, FIRST, "epochs.txt")) >= 2)
    (state,) = wait_for(lambda: [state for state in campaign.state() if state.epoch >= 2])
    assert (state.state, state.message, state.images_per_second) == ("running", "training", 25.0)
    assert state.eta_s == 4.0 * (50 - state.epoch)  # each epoch's rows say 2 s of training and 2 s of validation
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 130


def test_no_more_cells_at_once_than_the_site_allows(make_campaign):
    campaign = make_campaign(seeds=(0, 1, 2), max_parallel=2)
    seen: list[Any] = []
    run(campaign, "--epoch-seconds", "0.2", observer=seen.append)
    assert max(sum(state.state == "running" for state in table) for table in seen) == 2


def test_a_failed_cell_is_named_with_its_last_words_log_and_code_and_the_others_run(make_campaign):
    campaign = make_campaign()
    with pytest.raises(CellsFailed) as failure:
        run(campaign, "--fail-seed", "0")
    log = read_attempt(campaign.folder / "cells" / FIRST).log
    assert str(failure.value).startswith(
        f"1 of 2 cells failed: {FIRST} (code 65: error: sub-01: the truth is not binary; log: {log})"
    )
    assert failure.value.exit_code == 65
    assert "a line before" in log.read_text()
    assert states(campaign) == ["failed", "done"]

    with pytest.raises(CellsFailed):
        run(campaign)
    assert not (campaign.folder / "cells" / FIRST / "starts.txt").exists()
    run(campaign, retry_failed=True)
    assert states(campaign) == ["done", "done"]
    assert lines(campaign, SECOND, "starts.txt") == ["train", "evaluate"]


def test_a_cell_that_ends_well_without_results_is_failed(make_campaign):
    campaign = make_campaign(seeds=(0,))
    with pytest.raises(CellsFailed, match=r"ended with code 0 but without a run\.json that says complete") as failure:
        campaign.run(commands=lambda cell: [["true"]], poll_s=0.05)
    assert failure.value.exit_code == 70


def test_a_program_that_does_not_exist_is_failed_and_named(make_campaign):
    campaign = make_campaign(seeds=(0,))
    with pytest.raises(CellsFailed, match=r"code 127: .*/no/such/program") as failure:
        campaign.run(commands=lambda cell: [["/no/such/program"]], poll_s=0.05)
    assert failure.value.exit_code == 127


def test_ctrl_c_in_the_terminal_ends_the_cell_in_order_and_resume_completes_it(make_campaign, start_campaign):
    campaign = make_campaign(epochs=6)
    process = start_campaign(campaign, "--epoch-seconds", "0.4")
    wait_for(lambda: len(lines(campaign, FIRST, "epochs.txt")) >= 2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: every process of the foreground group
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"stopped with 0 of 2 cells done; continue with `mspipeline resume {campaign.folder}`" in said
    assert processes_of(campaign.folder) == []
    assert lines(campaign, FIRST, "stopped.txt") == ["[15]"]  # TERM once, and nothing else
    assert list(campaign.folder.rglob("*.partial")) == []
    assert [(state.state, state.exit_code) for state in campaign.state()] == [("interrupted", 75), ("pending", None)]

    run(campaign)
    assert states(campaign) == ["done", "done"]
    assert lines(campaign, FIRST, "epochs.txt") == ["1", "2", "3", "4", "5", "6"]
    assert campaign.state()[0].attempt == 1


def test_ctrl_c_while_a_job_starts_leaves_nothing_and_costs_nothing(make_campaign, start_campaign):
    campaign = make_campaign(seeds=(0,))
    process = start_campaign(campaign)
    wait_for((campaign.folder / "cells" / FIRST / "submission.json").exists)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 130
    assert processes_of(campaign.folder) == []
    run(campaign)
    assert states(campaign) == ["done"]


def test_a_second_ctrl_c_kills_a_cell_that_does_not_end(make_campaign, start_campaign):
    campaign = make_campaign(seeds=(0,), epochs=100)
    process = start_campaign(campaign, "--epoch-seconds", "0.2", "--deaf")
    wait_for(lambda: lines(campaign, FIRST, "epochs.txt"))
    os.killpg(process.pid, signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.0)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 130
    assert processes_of(campaign.folder) == []
    assert states(campaign) == ["interrupted"]


def test_a_cell_that_outlives_the_grace_is_killed(make_campaign, start_campaign):
    campaign = make_campaign(seeds=(0,), epochs=100)
    process = start_campaign(campaign, "--epoch-seconds", "0.2", "--deaf", grace_s=0.5)
    wait_for(lambda: lines(campaign, FIRST, "epochs.txt"))
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 130
    assert processes_of(campaign.folder) == []


def test_a_killed_campaign_is_taken_over_while_its_cell_runs_on(make_campaign, start_campaign):
    campaign = make_campaign(epochs=6)
    process = start_campaign(campaign, "--epoch-seconds", "0.2")
    wait_for(lambda: lines(campaign, FIRST, "epochs.txt"))
    process.kill()
    process.wait()
    assert states(campaign) == ["running", "pending"]

    run(Campaign.open(campaign.folder))
    assert states(campaign) == ["done", "done"]
    assert lines(campaign, FIRST, "starts.txt") == ["train", "evaluate"]
    assert not (campaign.folder / "cells" / FIRST / "two-at-once").exists()


def test_a_campaign_killed_while_its_job_starts_never_has_it_twice(make_campaign, start_campaign):
    campaign = make_campaign(seeds=(0,), epochs=4)
    process = start_campaign(campaign, "--epoch-seconds", "0.2")
    wait_for(lambda: list(campaign.folder.glob("logs/*/0/*_submitted.pkl")))
    process.kill()
    process.wait()
    run(campaign, "--epoch-seconds", "0.2")
    assert states(campaign) == ["done"]
    assert lines(campaign, FIRST, "epochs.txt") == ["1", "2", "3", "4"]
    assert not (campaign.folder / "cells" / FIRST / "two-at-once").exists()
    wait_for(lambda: processes_of(campaign.folder) == [])


def test_a_killed_job_whose_command_lives_on_is_waited_for(make_campaign, start_campaign):
    campaign = make_campaign(seeds=(0,), epochs=6)
    process = start_campaign(campaign, "--epoch-seconds", "0.2")
    wait_for(lambda: lines(campaign, FIRST, "epochs.txt"))
    process.kill()
    process.wait()
    psutil.Process(read_submission(campaign.folder / "cells" / FIRST).pid).kill()
    psutil.Process(read_attempt(campaign.folder / "cells" / FIRST).pid).kill()
    assert states(campaign) == ["running"]
    run(campaign)
    assert states(campaign) == ["done"]
    assert lines(campaign, FIRST, "epochs.txt") == ["1", "2", "3", "4", "5", "6"]
    assert not (campaign.folder / "cells" / FIRST / "two-at-once").exists()


def test_everything_killed_at_once_continues_from_the_checkpoint(make_campaign, start_campaign):
    campaign = make_campaign(seeds=(0,), epochs=5)
    process = start_campaign(campaign, "--epoch-seconds", "0.3")
    wait_for(lambda: len(lines(campaign, FIRST, "epochs.txt")) >= 2)
    for each in [process, *processes_of(campaign.folder)]:
        each.kill()
    process.wait()
    wait_for(lambda: states(campaign) == ["interrupted"])  # the system lets go of the lock in its own time
    assert campaign.state()[0].exit_code is None
    run(campaign)
    assert lines(campaign, FIRST, "epochs.txt") == ["1", "2", "3", "4", "5"]


def test_cancel_from_another_terminal_stops_the_campaign_that_runs(make_campaign, start_campaign):
    campaign = make_campaign(epochs=100)
    process = start_campaign(campaign, "--epoch-seconds", "0.2")
    wait_for(lambda: lines(campaign, FIRST, "epochs.txt"))
    assert [state.state for state in cancel(campaign, grace_s=20)] == ["interrupted", "pending"]
    assert process.wait(10) == 130
    assert not (campaign.folder / "cancel").exists()


def test_cancel_stops_a_cell_whose_campaign_died(make_campaign, start_campaign):
    campaign = make_campaign(epochs=100)
    process = start_campaign(campaign, "--epoch-seconds", "0.2")
    wait_for(lambda: lines(campaign, FIRST, "epochs.txt"))
    process.kill()
    process.wait()
    assert [state.state for state in cancel(campaign, grace_s=20)] == ["interrupted", "pending"]
    assert lines(campaign, FIRST, "stopped.txt") == ["[15]"]
    wait_for(lambda: processes_of(campaign.folder) == [])


def test_a_cell_stopped_by_somebody_else_is_told_and_not_started_again_at_once(make_campaign):
    campaign = make_campaign(seeds=(0,), epochs=100)

    def stop_the_job(table):
        if table[0].state == "running" and table[0].epoch:
            with suppress(ProcessLookupError):
                os.kill(read_attempt(campaign.folder / "cells" / FIRST).pid, signal.SIGTERM)

    with pytest.raises(Preempted, match=f"1 of 1 cells ended early: {FIRST} .*mspipeline resume"):
        run(campaign, "--epoch-seconds", "0.2", observer=stop_the_job)
    assert lines(campaign, FIRST, "starts.txt") == ["train"]


def test_an_observer_that_fails_leaves_nothing_running(make_campaign):
    campaign = make_campaign(seeds=(0,), epochs=100)

    def observer(_):
        if lines(campaign, FIRST, "epochs.txt"):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(campaign, "--epoch-seconds", "0.2", observer=observer)
    assert processes_of(campaign.folder) == []
    assert states(campaign) == ["interrupted"]


def test_a_second_process_on_the_same_campaign_is_refused(make_campaign, start_campaign):
    campaign = make_campaign(seeds=(0,), epochs=100)
    process = start_campaign(campaign, "--epoch-seconds", "0.2")
    wait_for(lambda: lines(campaign, FIRST, "epochs.txt"))
    with pytest.raises(UsageError, match=f"already run by process {process.pid} on .*mspipeline status"):
        run(campaign)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 130


def test_interrupted_inside_this_process_is_raised_with_the_next_step(make_campaign):
    campaign = make_campaign(seeds=(0,), epochs=100)

    def press_ctrl_c(_):
        if lines(campaign, FIRST, "epochs.txt"):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="stopped with 0 of 1 cells done; continue with `mspipeline resume"):
        run(campaign, "--epoch-seconds", "0.2", observer=press_ctrl_c)


def test_the_record_is_there_before_anything_runs(make_campaign, shards):
    campaign = make_campaign()
    record = json.loads((campaign.folder / "campaign.json").read_text())
    assert record["cells"] == [FIRST, SECOND]
    assert record["manifest"] == {"dataset_hash": "d1", "recipe_hash": "r1", "split_hash": "s1"}
    assert record["shards"] == str(shards)
    assert record["site"]["name"] == "local"
    assert record["sweep"]["training"]["epochs"] == 3
    assert not (campaign.folder / "cells").exists()
    assert states(campaign) == ["pending", "pending"]


def test_creating_it_again_continues_it_and_another_is_refused(make_campaign, shards):
    campaign = make_campaign()
    assert make_campaign().record.created_utc == campaign.record.created_utc
    with pytest.raises(ConfigError, match=r"another campaign \(sweep.training.epochs is 3 there, 4 here\).*folder"):
        make_campaign(epochs=4)
    (shards / "manifest.json").write_text('{"dataset_hash": "d1", "recipe_hash": "r2", "split_hash": "s1"}')
    with pytest.raises(ConfigError, match=r"manifest.recipe_hash is 'r1' there, 'r2' here"):
        make_campaign()
    with pytest.raises(ConfigError, match=r"not the shards this campaign began with \(recipe_hash differ\)"):
        campaign.run()


def test_a_folder_that_is_no_campaign_is_said_so(tmp_path):
    with pytest.raises(RunFolderError, match="name a folder that `mspipeline sweep` made"):
        Campaign.open(tmp_path)


def test_shards_that_are_not_there_are_said_so_and_nothing_is_written(make_campaign, shards, tmp_path):
    (shards / "manifest.json").write_text("{}")
    with pytest.raises(ShardError, match=r"not a shard manifest \('dataset_hash' is missing\)"):
        make_campaign()
    (shards / "manifest.json").unlink()
    with pytest.raises(ShardError, match="mspipeline prepare"):
        make_campaign()
    assert not (tmp_path / "campaign").exists()


def test_a_campaign_folder_that_was_moved_runs_where_it_is_now(make_campaign, tmp_path):
    campaign = make_campaign(seeds=(0,))
    moved = tmp_path / "moved"
    campaign.folder.rename(moved)
    run(Campaign.open(moved))
    assert states(Campaign.open(moved)) == ["done"]
    assert not campaign.folder.exists()


def test_a_cell_trains_then_evaluates_under_the_supervisor(make_campaign):
    cell = make_campaign().cells[0]
    train, evaluate = job_commands(cell)
    assert train == [
        sys.executable,
        "-P",
        "-m",
        "mspipeline.jobs",
        "supervise",
        "train",
        str(config_path(cell, "train")),
    ]
    assert evaluate[-2:] == ["evaluate", str(config_path(cell, "evaluate"))]


def test_a_device_that_the_site_lacks_is_refused_before_anything_is_written(shards, tmp_path):
    sweep = Sweep(name="tiny", matrix=Matrix(model=("unet2d",), device=("gpu",)))
    site = Site(name="there", executor="slurm", partitions={"cores": Partition(device="cpu")})
    with pytest.raises(ConfigError, match=r"site there: no partition for device 'gpu'; it has cores \(cpu\)"):
        Campaign.create(tmp_path / "other", sweep, shards, site)
    assert not (tmp_path / "other").exists()
