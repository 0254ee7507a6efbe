"""A campaign on SLURM whose folder version 0.1 has made is continued."""

import pytest

from mspipeline.campaigns.campaign import Campaign
from tests.campaigns.older_folders import command, unpack

pytestmark = pytest.mark.slurm


def test_resume_continues_the_cell_that_was_interrupted(cluster, tmp_path, backend_needed):
    folder = unpack(tmp_path) / "slurm"
    assert [state.state for state in Campaign.open(folder).state()] == ["done", "interrupted"]
    done = command("resume", folder, "--uncertified", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [(state.state, state.attempt) for state in Campaign.open(folder).state()] == [("done", 0), ("done", 1)]
