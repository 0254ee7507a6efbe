"""`prepare` as an MPI step of a real SLURM."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from mspipeline.campaigns.site import Partition, Site
from mspipeline.files import sha256_file
from mspipeline.slurm.site_rules import mpi_command
from tests.command_line import PROGRAM, files_below, run, wait_for
from tests.mpi_launch import require_mpi, shared_memory

pytestmark = [pytest.mark.slurm, pytest.mark.mpi]

SITE = Site(name="c", executor="slurm", mpi_plugin="pmi2", partitions={"cpu": Partition()})
SRUN = (*mpi_command(SITE, 4), "--nodes=2")


@pytest.fixture(autouse=True)
def _mpi() -> None:
    require_mpi()


def data_of(folder: Path) -> dict[str, str]:
    return {name: sha256_file(folder / name) for name in files_below(folder) if name != "prepare.json"}


def ranks_of(output: str) -> list[psutil.Process]:
    """The processes that prepare into a folder, but for srun's own."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if output in words and words[0] != "srun":
            found.append(process)
    return found


@pytest.mark.usefixtures("cluster")
def test_four_ranks_on_two_nodes_write_the_bytes_of_one_and_a_killed_rank_ends_all(
    small_dataset: Path, tmp_path: Path
) -> None:
    size = ("--set", "size=[128,128,128]")
    output = str(tmp_path / "shards")
    command = [*SRUN, str(PROGRAM), "prepare", str(small_dataset), *size, "-o", output]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as step:
        wait_for(lambda: step.poll() is not None or len(list(tmp_path.glob("shards/prepare.lock"))) == 1)
        ranks = ranks_of(output)
        left_behind = shared_memory([rank.pid for rank in ranks])
        assert len(ranks) == 4
        os.kill(ranks[-1].pid, signal.SIGKILL)
        step.communicate(timeout=60)
    assert step.returncode != 0
    _, left = psutil.wait_procs(ranks, timeout=20)
    assert not left
    for path in left_behind:
        path.unlink(missing_ok=True)
    assert not (tmp_path / "shards/manifest.json").exists()

    subprocess.run(command, check=True, capture_output=True, timeout=120)

    assert run("prepare", small_dataset, *size, "-o", tmp_path / "one").code == 0
    assert data_of(tmp_path / "shards") == data_of(tmp_path / "one")
    plain = subprocess.run(
        ["srun", "-n", "2", *command[len(SRUN) : -1], str(tmp_path / "plain")],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert plain.returncode == 69
    errors = [line for line in plain.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "add --mpi=pmi2 to srun" in errors[0]
