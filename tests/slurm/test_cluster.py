"""The tests' own cluster: what it offers, and that nothing of it is left."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.campaigns.process_watch import processes_of, wait_for
from tests.slurm.cluster_keeper import ClusterError

pytestmark = pytest.mark.slurm

START_AND_SAY = (
    "import sys, time\n"
    "from tests.slurm.cluster import start_cluster\n"
    "with start_cluster() as cluster:\n"
    "    cluster.run('sbatch', '--output=/dev/null', '--wrap', 'sleep 600')\n"
    "    print(cluster.root, cluster.keeper, flush=True)\n"
    "    time.sleep(600)\n"
)


@pytest.fixture
def second_cluster(slurm_cluster):
    """Another cluster beside the tests' own, in a process that can be killed: (process, folder, keeper)."""
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", START_AND_SAY], cwd=root, stdout=subprocess.PIPE, text=True)
    folder, keeper = process.stdout.readline().split()
    yield process, Path(folder), psutil.Process(int(keeper))
    process.kill()
    process.communicate()


def test_it_has_four_nodes_and_three_partitions_of_which_one_preempts(cluster):
    rows = sorted(cluster.run("sinfo", "-h", "-N", "-o", "%N %R %c %m %G").splitlines())
    assert rows == [
        *("c1 cpu 4 4096 (null)", "c1 urgent 4 4096 (null)", "c2 cpu 4 4096 (null)", "c2 urgent 4 4096 (null)"),
        *("g1 gpu_t4 4 4096 gpu:t4:2", "g2 gpu_t4 4 4096 gpu:t4:2"),
    ]
    tiers = {name: cluster.run("scontrol", "show", "partition", name) for name in ("cpu", "urgent")}
    assert "PriorityTier=1 " in tiers["cpu"]
    assert "PreemptMode=REQUEUE" in tiers["cpu"]
    assert "PriorityTier=10 " in tiers["urgent"]


def test_a_gpu_is_handed_out_by_number_and_only_where_there_are_any(cluster):
    say = ["bash", "-c", "echo ${CUDA_VISIBLE_DEVICES-unset}"]
    assert cluster.run("srun", "-p", "gpu_t4", "--gres=gpu:t4:2", *say) == "0,1\n"
    assert cluster.run("srun", "-p", "cpu", *say) == "unset\n"
    with pytest.raises(ClusterError, match="Requested node configuration is not available"):
        cluster.run("srun", "-p", "cpu", "--gres=gpu:t4:1", *say)


def test_accounting_tells_how_a_job_ended(cluster):
    number = cluster.run("sbatch", "--parsable", "--output=/dev/null", "--wrap", "exit 3").strip()
    asked = ("sacct", "-nPX", "-j", number, "-o", "State,ExitCode")
    wait_for(lambda: cluster.run(*asked).strip() == "FAILED|3:0")


def test_only_what_is_given_its_configuration_sees_it(slurm_cluster):
    assert "SLURM_CONF" not in os.environ
    assert set(slurm_cluster.environment) == {"SLURM_CONF"}


def test_every_listener_is_on_the_loopback_device(slurm_cluster):
    family = [
        slurm_cluster.keeper,
        *(each.pid for each in psutil.Process(slurm_cluster.keeper).children(recursive=True)),
    ]
    listening = {
        connection.laddr.ip
        for connection in psutil.net_connections("tcp")
        if connection.pid in family and connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGKILL])
def test_tests_that_are_killed_leave_no_process_job_or_folder(second_cluster, kind):
    process, root, keeper = second_cluster
    family = wait_for(lambda: [each for each in keeper.children(recursive=True) if each.name() == "sleep"])
    family += keeper.children(recursive=True)
    assert len(family) > 8
    process.send_signal(kind)
    process.wait()
    keeper.wait(30)
    assert [each for each in family if each.is_running()] == []
    assert not root.exists()
    assert processes_of(root) == []
