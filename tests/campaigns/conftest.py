import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mspipeline.campaigns.campaign import Campaign
from mspipeline.campaigns.site_file import load_site
from mspipeline.campaigns.sweep import Matrix, Sweep
from mspipeline.config import TrainingSettings
from tests.campaigns.process_watch import processes_of

CAMPAIGN_PROGRAM = Path(__file__).parent / "campaign_program.py"


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    hashes = {"dataset_hash": "d1", "recipe_hash": "r1", "split_hash": "s1"}
    (folder / "manifest.json").write_text(json.dumps({"schema_version": 1, **hashes}))
    return folder


@pytest.fixture
def make_campaign(tmp_path, shards):
    """A campaign of U-Net cells with these seeds; whatever of it still runs after the test fails the test."""
    folder = tmp_path / "campaign"

    def make(seeds=(0, 1), epochs=3, max_parallel=1, site=None):
        sweep = Sweep(
            name="tiny", matrix=Matrix(model=("unet2d",), seed=seeds), training=TrainingSettings(epochs=epochs)
        )
        local = load_site("local").model_copy(update={"max_parallel": max_parallel})
        return Campaign.create(folder, sweep, shards, site or local)

    yield make
    left = processes_of(folder)
    for process in left:
        process.kill()
    assert left == []


@pytest.fixture
def start_campaign():
    """Start a campaign in a process group of its own, as a shell with job control does."""
    started = []

    def start(campaign, *options, grace_s=30.0):
        process = subprocess.Popen(
            [sys.executable, str(CAMPAIGN_PROGRAM), str(campaign.folder), str(grace_s), *options],
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.kill(process.pid, 9)
        if not process.stderr.closed:  # the test may have read it to its end
            process.communicate()
