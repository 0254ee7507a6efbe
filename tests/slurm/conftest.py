import os

import pytest

from tests.campaigns.conftest import make_campaign, shards, start_campaign
from tests.slurm.cluster import missing_packages, start_cluster

__all__ = ["make_campaign", "shards", "start_campaign"]


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
