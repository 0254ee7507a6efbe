"""Campaigns whose folders version 0.1 has made are still read, shown, continued and collected."""

import pyarrow.parquet as pq
import pytest

from mspipeline.campaigns.campaign import Campaign
from mspipeline.campaigns.logs import parts
from mspipeline.collect.tables import collect
from tests.campaigns.older_folders import FIRST, SECOND, command, unpack


@pytest.fixture
def folders(tmp_path):
    return unpack(tmp_path)


def test_status_tells_what_it_told(folders):
    done = command("status", "local", cwd=folders)
    assert done.returncode == 0, done.stderr
    assert "2 cells: 1 interrupted, 1 done" in done.stdout
    first, second = Campaign.open(folders / "local").state()
    assert (first.state, first.epoch, first.attempt, first.exit_code) == ("done", 30, 0, 0)
    assert (second.state, second.epoch, second.exit_code) == ("interrupted", 0, 75)
    assert second.message.startswith("stopped with code 75: error: stopped by SIGTERM, state saved")


@pytest.mark.parametrize("name", ["local", "slurm"])
def test_logs_and_tables_are_read(folders, name, tmp_path):
    campaign = Campaign.open(folders / name)
    assert [[part.log.exists() for part in parts(cell.train.run_folder)] for cell in campaign.cells] == [[True]] * 2
    collected = collect(campaign.folder, tmp_path / "tables")
    assert not collected.problems
    rows = pq.read_table(tmp_path / "tables" / "runs.parquet").to_pylist()
    assert sorted((row["cell"], row["status"]) for row in rows) == [(FIRST, "complete"), (SECOND, "interrupted")]


def test_a_campaign_of_another_site_is_refused_and_that_of_the_same_is_taken_up(folders):
    campaign = Campaign.open(folders / "slurm")
    record = campaign.record
    assert record.site.sbatch == {}
    assert record.site.partitions["cpu"].sbatch == {"mail-user": "a@b"}
    again = Campaign.create(campaign.folder, record.sweep, record.shards, record.site, collect=True)
    assert again.record == record


def test_resume_continues_the_cell_that_was_interrupted_at_its_step(folders, backend_needed):
    done = command("resume", "local", "--uncertified", cwd=folders)
    assert done.returncode == 0, done.stderr
    first, second = Campaign.open(folders / "local").state()
    assert (first.state, first.attempt) == ("done", 0)
    assert (second.state, second.attempt, second.epoch) == ("done", 1, 30)
    assert (folders / "local" / "tables" / "runs.parquet").exists()
