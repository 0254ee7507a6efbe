"""How cells end that cannot say it themselves, on this machine: killed, out of memory, without space."""

import os
import sys
from pathlib import Path

import pytest

from mspipeline.campaigns.attempt import AttemptRecord, forgive, newest_state, read_attempt, tries_failed
from mspipeline.campaigns.ending import ending_of
from mspipeline.campaigns.follow import CellsFailed
from mspipeline.campaigns.run_commands import run_commands
from mspipeline.campaigns.schedulers import scheduler_named
from mspipeline.campaigns.site_file import load_site
from mspipeline.campaigns.submission import Submission
from mspipeline.runs import RunPaths
from mspipeline.telemetry.schema import SAMPLES_STREAM, Identity
from mspipeline.telemetry.shard import StreamWriter
from tests.campaigns.campaign_program import cell_commands

ONE = "unet2d-tensorflow-s0"
ALLOWED = {"tries_allowed": 3, "mem_gb": 2}
LOCAL, SLURM = scheduler_named("local"), scheduler_named("slurm")


def run(campaign, *options, **keywords):
    return campaign.run(commands=cell_commands(*options), poll_s=0.05, **keywords)


def lines(campaign, name):
    return (campaign.folder / "cells" / ONE / name).read_text().splitlines()


def attempt(folder, **values):
    defaults = {"attempt": 0, "job_id": "7", "host": "h", "pid": 1, "pid_created": 0.0, "started_utc": ""}
    return AttemptRecord(log=folder / "log.out", **{**defaults, **values})


def submission(folder, **values):
    defaults = {"executor": "local", "job_id": "7", "host": "h", "pid": None, "pid_created": None, "submitted_utc": ""}
    return Submission(logs=folder, log=folder / "log.out", **{**defaults, **values})


def end(folder, scheduler=LOCAL, allowed=ALLOWED, **values):
    return ending_of(folder, submission(folder), attempt(folder, **values), scheduler, **{**ALLOWED, **allowed})


def test_a_cell_that_is_killed_is_run_again_by_the_campaign_itself(make_campaign):
    (state,) = run(make_campaign(seeds=(0,)), "--die-after", "2")
    assert (state.state, state.attempt, state.epoch) == ("done", 1, 3)


def test_a_cell_that_always_dies_before_it_gets_further_fails_after_its_tries_and_its_log_is_shown(make_campaign):
    campaign = make_campaign(seeds=(0,))
    with pytest.raises(
        CellsFailed, match=r"died 3 times without getting further; the last time: killed on .*SIGKILL"
    ) as failure:
        run(campaign, "--die-after", "0")
    assert lines(campaign, "starts.txt") == ["train"] * 3
    (state,) = campaign.state()
    assert (state.state, state.exit_code) == ("failed", 137)
    assert failure.value.details[0] == f"{ONE}, {state.log}:"
    with pytest.raises(CellsFailed):  # it stays so for a campaign that is run again
        run(campaign)
    assert len(lines(campaign, "starts.txt")) == 3


def test_a_failed_cell_that_is_asked_for_again_has_all_its_tries_again(make_campaign):
    campaign = make_campaign(seeds=(0,))
    for most in (3, 6):
        with pytest.raises(CellsFailed, match="died 3 times"):
            run(campaign, "--die-after", "0", retry_failed=most > 3)
        assert len(lines(campaign, "starts.txt")) == most
    (state,) = run(campaign, retry_failed=True)
    assert state.state == "done"


def test_the_number_of_tries_is_the_sites(make_campaign):
    campaign = make_campaign(seeds=(0,), site=load_site("local").model_copy(update={"tries": 1}))
    with pytest.raises(CellsFailed, match="died 1 times"):
        run(campaign, "--die-after", "0")
    assert lines(campaign, "starts.txt") == ["train"]


def test_only_attempts_that_died_without_getting_further_count():
    record = attempt(Path(), tries=1, state_saved=5)
    assert tries_failed(record, 5) == 2
    assert tries_failed(record, 6) == 0  # its training went on
    assert tries_failed(record.model_copy(update={"exit_code": 137}), 5) == 2
    assert tries_failed(record.model_copy(update={"exit_code": 75}), 5) == 1  # preempted: neither counted nor forgotten
    assert tries_failed(record.model_copy(update={"asked": "SIGTERM"}), 5) == 1  # killed before it had saved
    assert tries_failed(record.model_copy(update={"asked": "SIGUSR2"}), 5) == 2  # its own time limit


def test_a_cell_that_is_forgiven_starts_to_count_anew(tmp_path):
    (tmp_path / "cell.json").write_text(attempt(tmp_path, tries=2).model_dump_json())
    before = read_attempt(tmp_path)
    assert before is not None
    assert tries_failed(before, newest_state(tmp_path)) == 3
    forgive(tmp_path)
    after = read_attempt(tmp_path)
    assert after is not None
    assert tries_failed(after, newest_state(tmp_path)) == 0


def test_a_job_that_slurm_brings_back_for_ever_gives_up_by_itself(tmp_path, monkeypatch, capfd):
    for name, value in {"EXECUTOR": "local", "LOCAL_JOB_ID": "7", "FOLDER": str(tmp_path)}.items():
        monkeypatch.setenv(f"SUBMITIT_{name}", value)
    (tmp_path / "cell.json").write_text(attempt(tmp_path, tries=2).model_dump_json())
    assert run_commands([["touch", str(tmp_path / "ran")]], str(tmp_path), tries=3) == 70
    assert "error: died 3 times without getting further; given up" in capfd.readouterr().out
    assert not (tmp_path / "ran").exists()
    assert read_attempt(tmp_path).exit_code == 70


def test_slurms_word_on_memory_gives_the_peak_and_a_better_limit(tmp_path):
    (tmp_path / "log.out").write_text(
        "epoch 1\nslurmstepd: error: StepId=2.batch exceeded memory limit (2684354560 > 2147483648), being killed\n"
    )
    ending = end(tmp_path, SLURM)
    assert (ending.state, ending.again) == ("failed", False)
    assert ending.message == (  # 2.5 GiB and a quarter more, in halves
        "killed by its memory limit at 2.50 GB of 2; set mem_gb = 3.5 or more in the site file, or a smaller batch_size"
    )


def test_what_an_earlier_attempt_wrote_to_the_same_log_says_nothing_of_this_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # nobody knows the job
    text = "exceeded memory limit (2684354560 > 2147483648)\n"
    (tmp_path / "log.out").write_text(text)
    assert "memory" not in end(tmp_path, SLURM, log_start=len(text)).message


def test_a_kill_near_the_limit_of_memory_is_told_as_such_by_the_samples(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # SLURM's own word on the job is not to be had

    def sampled(gib):
        paths = RunPaths(tmp_path).new_attempt("train")
        with StreamWriter(paths.samples, SAMPLES_STREAM) as stream:
            stream.write([{**Identity("r").stamp(), "scope": "process_tree", "rss_bytes": int(gib * 2**30)}])

    on_slurm = submission(tmp_path, executor="slurm")
    sampled(1.95)
    ending = ending_of(tmp_path, on_slurm, attempt(tmp_path, exit_code=137), SLURM, **ALLOWED)
    assert "killed, most likely by its memory limit at 1.95 GB of 2; set mem_gb = 2.5" in ending.message
    sampled(0.5)  # the attempt after it
    ending = ending_of(tmp_path, on_slurm, attempt(tmp_path, exit_code=137), SLURM, **ALLOWED)
    assert "memory" not in ending.message
    assert ending.again


def test_python_without_memory_and_the_kernels_own_kill_are_told_as_such(tmp_path):
    (tmp_path / "log.out").write_text("error: MemoryError: Unable to allocate 9 GiB; run with --debug\n")
    assert end(tmp_path, exit_code=70, allowed={"mem_gb": None}).message.startswith("memory ran out; run fewer cells")
    assert end(tmp_path, exit_code=70, log_start=10**6) is None
    (tmp_path / "log.out").write_text("")
    kernel = end(tmp_path, exit_code=137, memory_ran_out=True, allowed={"mem_gb": None})
    assert kernel.message.startswith("killed by the kernel, for memory ran out")
    assert (kernel.state, kernel.again) == ("failed", False)


EATS = "x = bytearray(300 * 2**20); print(len(x))"


def test_a_cell_that_the_kernel_ends_for_its_memory_is_said_to_have_ended_so(make_campaign, memory_cgroup):
    """A control group with 200 MiB stands in for a machine that is full."""
    campaign = make_campaign(seeds=(0,))
    joins = f"echo $$ > {memory_cgroup}/cgroup.procs; exec {sys.executable} -c '{EATS}'"
    with pytest.raises(CellsFailed, match="killed by the kernel, for memory ran out"):
        campaign.run(commands=lambda cell: [["sh", "-c", joins]], poll_s=0.05)
    assert campaign.state()[0].attempt == 0


@pytest.fixture
def memory_cgroup():
    folder = Path("/sys/fs/cgroup/memory") / f"mspipeline-test-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text(str(200 * 2**20))
    except OSError as error:
        pytest.skip(f"no control group of one's own here: {error}")
    yield folder
    folder.rmdir()
