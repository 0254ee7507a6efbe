"""Probe jobs on the tests' cluster. A stand-in for `date` on the PATH sets a node's clock wrong."""

import os
import time
from importlib.util import find_spec

import pytest

from mspipeline.campaigns.site import Partition, Site
from mspipeline.slurm.checks.probe import probe_site
from mspipeline.slurm.checks.probe_mpi import mpi_findings
from tests.mpi_launch import require_mpi

pytestmark = pytest.mark.slurm


def site(**values):
    return Site(**{"name": "p", "executor": "slurm", "partitions": {"cpu": Partition(time_min=5)}, **values})


def states(findings):
    return {each.what.partition(": ")[2]: (each.state, each.detail) for each in findings}


def test_a_probe_says_which_node_it_was_and_that_a_cell_could_run_there(cluster, tmp_path):
    found = probe_site(site(scratch=f"{tmp_path}/scratch/$SLURM_JOB_ID", binds=("/usr:ro",)), tmp_path)
    said = states(found)
    assert found[0].what.startswith(("probe of 'cpu' on c1: ", "probe of 'cpu' on c2: "))
    assert {name: state for name, (state, _) in said.items()} == {
        "clock": "ok",
        "python": "ok",
        "cores": "ok",
        "MPI": "ok" if find_spec("mpi4py") else "missing",
        "output folder": "ok",
        f"scratch {tmp_path}/scratch/$SLURM_JOB_ID": "ok",
        "bind /usr:ro": "ok",
    }
    assert said["output folder"][1] == f"{tmp_path} is seen and can be written"
    assert said["cores"][1].startswith("the task has the 2 that it asked for")
    assert list(tmp_path.glob(".mspipeline*")) == []
    assert list((tmp_path / "scratch").iterdir()) == []


def test_partitions_are_probed_at_once_and_a_gpu_that_no_driver_knows_is_told(cluster, tmp_path):
    gpu = Partition(device="gpu", gres="gpu:t4:1")
    found = probe_site(site(partitions={"cpu": Partition(), "gpu_t4": gpu}), tmp_path)
    assert {each.what.partition(" on ")[0].partition(":")[0] for each in found} == {
        "probe of 'cpu'",
        "probe of 'gpu_t4'",
    }
    (on_gpu,) = (each for each in found if each.what.endswith(": GPU"))
    assert "CUDA_VISIBLE_DEVICES is 0" in on_gpu.detail


def test_what_a_node_lacks_is_broken_with_what_to_do(cluster, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    lacks = site(
        scratch=f"{tmp_path}/file/x",
        binds=("/no/such", "$NOWHERE/x:/x"),
        modules=("gcc/12.2",),
        container="singularity",
        image_folder=tmp_path,
        images={"torch": "torch.sif"},
    )
    found = probe_site(lacks, tmp_path)
    said = states(found)
    assert said["bind /no/such"] == ("broken", "no /no/such")
    assert said["bind $NOWHERE/x:/x"] == ("broken", "$NOWHERE is not set in the job")
    assert said[f"scratch {tmp_path}/file/x"][0] == "broken"
    assert said["modules gcc/12.2"][0] == "broken"
    assert "module: command not found" in said["modules gcc/12.2"][1]
    assert said["container singularity"] == ("broken", "not on the PATH")
    assert all(each.remedy for each in found if each.state != "ok")


@pytest.mark.parametrize(("shift_s", "said"), [(100, "s ahead of this machine's"), (-3, "s behind this machine's")])
def test_a_node_whose_clock_is_off_is_told(cluster, tmp_path, monkeypatch, shift_s, said):
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "date").write_text(f"#!/bin/sh\nexec /bin/date -d '{shift_s:+d} seconds' \"$@\"\n")
    (programs / "date").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    state, detail = states(probe_site(site(), tmp_path))["clock"]
    assert state == "broken"
    assert detail.endswith(said)
    assert abs(float(detail.split()[0]) - abs(shift_s)) < 1.5


def test_a_folder_that_the_node_does_not_see_and_a_python_that_it_lacks_are_told(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", "/no/such/python")
    state, detail = states(probe_site(site(), tmp_path))["python"]
    assert (state, "/no/such/python does not run there" in detail) == ("broken", True)


def test_a_full_queue_ends_the_probe_with_one_line_and_nothing_is_left_in_it(cluster, tmp_path):
    cluster.run("sbatch", "-p", "cpu", "-N2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 600")
    while "R" not in cluster.run("squeue", "-h", "-o", "%t"):
        time.sleep(0.1)
    (found,) = probe_site(site(), tmp_path, wait_s=3, run_s=5)
    assert (found.what, found.state) == ("probe of 'cpu'", "missing")
    assert found.detail == "no free place within 3 s (the queue is full)"
    assert cluster.run("squeue", "-h", "-o", "%j") == "wrap\n"


def test_a_partition_that_does_not_exist_is_srun_s_own_line(cluster, tmp_path):
    (found,) = probe_site(site(partitions={"gpu": Partition()}), tmp_path)
    assert found.state == "broken"
    assert "Invalid partition" in found.detail
    assert "\n" not in found.detail


def test_a_probe_that_does_not_end_is_cancelled(cluster, tmp_path, monkeypatch):
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "date").write_text("#!/bin/sh\nexec sleep 600\n")
    (programs / "date").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    found = probe_site(site(), tmp_path, wait_s=3, run_s=2)
    assert [each.state for each in found if each.what.endswith(": end")] == ["broken"]
    ends = time.monotonic() + 30
    while cluster.run("squeue", "-h") and time.monotonic() < ends:
        time.sleep(0.2)
    assert cluster.run("squeue", "-h") == ""


@pytest.mark.parametrize(
    ("values", "state", "words"),
    [
        ({}, "ok", "2 ranks of MPICH"),
        ({"mpi_plugin": "none"}, "broken", "srun --mpi=none: srun started 2 processes that cannot talk to each other"),
        ({"modules": ("gcc/12.2",)}, "broken", "the job ended before its work began: `module purge` failed on c"),
    ],
)
def test_two_ranks_are_started_as_a_preparation_starts_them(cluster, tmp_path, values, state, words):
    require_mpi()
    (found,) = mpi_findings(site(**values), tmp_path, 120)
    assert (found.what, found.state, words in found.detail) == ("probe of 'cpu': MPI", state, True), found
    assert bool(found.remedy) == (state == "broken")
