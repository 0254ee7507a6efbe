"""Cells as processes of this machine."""

import sys

import pytest

from mspipeline.campaigns.attempt import read_attempt
from mspipeline.campaigns.cell_processes import sigint_held_back
from mspipeline.campaigns.local import parameters
from mspipeline.campaigns.site import Partition
from mspipeline.campaigns.site_file import load_site
from mspipeline.campaigns.submission import read_submission
from tests.campaigns.process_watch import wait_for
from tests.campaigns.submitting import submit


def run_one(tmp_path, command):
    """Submit one command to the local site; its job's record when it has ended."""
    with sigint_held_back():
        handle = submit(load_site("local"), "auto", "one", [command], tmp_path / "cell", tmp_path / "logs")
    wait_for(handle.ended)
    return read_attempt(tmp_path / "cell")


def test_a_local_cell_may_take_as_long_as_it_needs():
    assert parameters("cell", Partition())["timeout_min"] == 366 * 24 * 60


def test_a_local_job_and_its_submission_are_told_by_their_files(tmp_path):
    record = run_one(tmp_path, ["echo", "hello"])
    submission = read_submission(tmp_path / "cell")
    assert (submission.executor, submission.job_id) == ("local", record.job_id)
    assert submission.log == record.log
    assert "hello\n" in record.log.read_text()


@pytest.mark.parametrize(("chosen", "seen"), [("1", "1"), ("", ""), (None, "unset")])
def test_a_local_cell_sees_the_gpus_that_its_user_sees(tmp_path, monkeypatch, chosen, seen):
    if chosen is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    text = "import os; print('seen:' + os.environ.get('CUDA_VISIBLE_DEVICES', 'unset'))"
    assert f"seen:{seen}\n" in run_one(tmp_path, [sys.executable, "-c", text]).log.read_text()


def test_a_folder_of_the_packages_name_where_the_user_stands_hides_nothing(tmp_path, monkeypatch):
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "__init__.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.chdir(tmp_path)
    assert run_one(tmp_path, ["true"]).exit_code == 0


def test_a_campaign_on_this_machine_loads_nothing_of_slurm(tmp_path):
    text = (
        "import sys; from mspipeline.campaigns.site_file import load_site; import mspipeline.campaigns.campaign\n"
        "from mspipeline.campaigns.schedulers import scheduler_named; scheduler_named(load_site('local').executor)\n"
        "print([name for name in sys.modules if name.startswith('mspipeline.slurm')])"
    )
    record = run_one(tmp_path, [sys.executable, "-P", "-c", text])
    assert "[]" in record.log.read_text().splitlines()
