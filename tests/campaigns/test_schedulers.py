"""What holds for every scheduler, and for the table that they are found in."""

import inspect
import os

import pytest

from mspipeline.campaigns.attempt import AttemptRecord
from mspipeline.campaigns.job_shape import PLAIN
from mspipeline.campaigns.scheduler import JobEnd, Scheduler
from mspipeline.campaigns.schedulers import SCHEDULERS, scheduler_named, site_folders
from mspipeline.campaigns.site import Partition, Site
from mspipeline.campaigns.site_file import built_in_sites, load_site
from mspipeline.campaigns.submission import Submission, read_submission
from mspipeline.errors import ConfigError
from tests.campaigns.campaign_program import cell_commands
from tests.installed_package import importable, install

EVERY = sorted(SCHEDULERS)
OF_ANOTHER_PACKAGE = """
from mspipeline.campaigns.local import Local
from mspipeline.campaigns.scheduler import Scheduler

class Two(Local):
    title = "this machine, two at a time"
    def limit(self, site):
        return 2

class Half(Scheduler):
    title, queues, runs_here = "half", False, True
"""


@pytest.fixture(params=EVERY)
def name(request):
    return request.param


@pytest.fixture
def scheduler(name):
    return scheduler_named(name)


def submission(folder, name, **values):
    defaults = {"job_id": "999999", "host": "elsewhere", "pid": None, "pid_created": None, "submitted_utc": ""}
    return Submission(executor=name, logs=folder, log=folder / "log.out", **{**defaults, **values})


def test_each_is_one_object_that_answers_every_question(name, scheduler):
    assert scheduler is scheduler_named(name)
    assert isinstance(scheduler, Scheduler)
    assert not inspect.isabstract(type(scheduler))
    assert scheduler.title


def test_an_unknown_one_is_answered_with_those_that_there_are():
    with pytest.raises(ConfigError, match="executor: input should be 'local' or 'slurm', not 'pbs'"):
        scheduler_named("pbs")


def test_the_built_in_sites_lie_beside_their_schedulers_and_each_takes_its_own():
    assert len(site_folders()) == len(EVERY)
    assert {load_site(each).executor for each in built_in_sites()} == set(EVERY)


def test_a_plain_site_with_a_partition_is_valid(name, scheduler):
    site = Site(name="x", executor=name, partitions={"cpu": Partition(cpus=2, time_min=30)})
    scheduler.validate(site)
    assert scheduler.limit(site) >= 1
    assert scheduler.pack(site.partitions["cpu"]) >= 1


def test_an_option_that_no_scheduler_has_is_refused(name, scheduler):
    site = Site(name="x", executor=name, partitions={"cpu": Partition()}, sbatch={"no-such": "x"})
    with pytest.raises(ConfigError, match="sbatch"):
        scheduler.validate(site)


def test_where_its_programs_are_absent_nothing_is_known_and_nothing_fails(scheduler, name, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    scheduler.forget()
    try:
        assert scheduler.end_of("999999") == JobEnd()
        assert scheduler.peak_bytes("999999") is None
        assert scheduler.obstacle("999999") is None
        assert not scheduler.stuck()
        assert scheduler.queued(submission(tmp_path, name))  # nobody here can tell
        assert scheduler.refusal(submission(tmp_path, name)) == ""
        assert scheduler.memory_kill("epoch 1\n") is None
    finally:
        scheduler.forget()


def test_nobody_is_asked_to_stop_or_kill_where_nothing_is_given(scheduler, tmp_path, monkeypatch):
    for program in ("scancel", "scontrol", "kill"):
        (tmp_path / program).write_text(f"#!/bin/sh\necho {program} $* >> {tmp_path}/asked\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    scheduler.stop([])
    scheduler.kill([])
    scheduler.withdraw([])
    assert not (tmp_path / "asked").exists()


def test_a_job_that_ended_with_its_attempt_is_over_where_no_queue_could_bring_it_back(tmp_path):
    record = AttemptRecord(
        attempt=0, job_id="7", host="h", pid=1, pid_created=0.0, log=tmp_path, started_utc="", exit_code=75
    )
    local = scheduler_named("local")
    assert local.place_of_attempt(record, submission(tmp_path, "local", job_id="7"), here=True) == "over"


def test_a_script_is_there_where_something_is_submitted(name, scheduler, tmp_path):
    site = Site(name="x", executor=name, partitions={"cpu": Partition(cpus=2)})
    text = scheduler.script(site, "cpu", 3, tmp_path, name="x", shape=PLAIN)
    assert (text is not None) == scheduler.queues


@pytest.fixture
def installed(tmp_path):
    """A package with schedulers, as an installer leaves it."""
    (tmp_path / "other.py").write_text(OF_ANOTHER_PACKAGE)
    points = "[mspipeline.schedulers]\ntwo = other:Two\nhalf = other:Half\nslurm = other:Two\n"
    install(tmp_path, "other", points)
    scheduler_named.cache_clear()
    with importable(tmp_path):
        yield
    scheduler_named.cache_clear()


def test_one_of_another_package_runs_the_cells_of_its_sites(installed, make_campaign):
    site = Site(name="mine", executor="two")
    campaign = make_campaign(site=site)
    most = 0

    def watch(states):
        nonlocal most
        most = max(most, sum(state.state == "running" for state in states))

    ended = campaign.run(watch, commands=cell_commands("--epoch-seconds", "0.3"), poll_s=0.05)
    assert [state.state for state in ended] == ["done", "done"]
    assert most == 2
    assert read_submission(campaign.cells[0].train.run_folder).executor == "two"


def test_one_that_lacks_a_method_or_takes_a_name_is_named_and_the_others_work(installed):
    with pytest.raises(ConfigError, match=r"scheduler 'half' of package other: other:Half cannot be used \(lacks answ"):
        scheduler_named("half")
    taken = [problem for problem in map(str, SCHEDULERS.problems()) if "'slurm'" in problem]
    assert taken == ["scheduler 'slurm' of package other: the suite has that name; choose another"]
    assert type(scheduler_named("slurm")).__name__ == "Slurm"
    with pytest.raises(ConfigError, match="input should be 'local' or 'slurm' or 'half' or 'two', not 'pbs'"):
        scheduler_named("pbs")
