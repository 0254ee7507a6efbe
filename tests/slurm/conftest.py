import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mspipeline.config import TrainingSettings
from mspipeline.slurm.campaigns.campaign import Campaign
from mspipeline.slurm.site import load_site
from mspipeline.slurm.sweep import Matrix, Sweep
from tests.slurm.cluster import missing_packages, start_cluster
from tests.slurm.process_watch import processes_of

CAMPAIGN_PROGRAM = Path(__file__).parent / "campaign_program.py"


@pytest.fixture(scope="session")
def slurm_cluster():
    """A private SLURM for the whole test run; a test takes `cluster`, which has it to itself."""
    if missing := missing_packages():
        pytest.skip(f"no SLURM here; apt-get install -y --no-install-recommends {' '.join(missing)}")
    with start_cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(slurm_cluster, monkeypatch):
    """The private SLURM, empty, as what this test and the programs it starts see; emptied again afterwards."""
    for name in [name for name in os.environ if name.startswith(("SLURM", "SBATCH", "SUBMITIT"))]:
        monkeypatch.delenv(name)
    for name, value in slurm_cluster.environment.items():
        monkeypatch.setenv(name, value)
    yield slurm_cluster
    slurm_cluster.reset()


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
