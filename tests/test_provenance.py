from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mspipeline.provenance import checkout_commit, cpu_model, installed, provenance, slurm_job

GIT = {
    **{f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
}


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **GIT}).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git checkout with one tracked folder, `package`."""
    folder = tmp_path / "checkout"
    (folder / "package").mkdir(parents=True)
    (folder / "package" / "module.py").write_text("A = 1\n")
    git(tmp_path, "init", "--quiet", str(folder))
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "one")
    return folder


def test_the_record_is_plain_json_with_every_key() -> None:
    record = provenance(commit="c0ffee", image_digest="sha256:1")
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert set(record) == {
        *("commit", "image_digest", "versions", "python", "host", "kernel", "cpu_model"),
        *("cpus_allocated", "memory_bytes", "gpu_name", "gpu_driver"),
        *("slurm_job_id", "partition", "node"),
    }
    assert (record["commit"], record["image_digest"]) == ("c0ffee", "sha256:1")
    assert record["versions"]["numpy"] == np.__version__
    assert record["host"] == platform.node()
    assert 1 <= record["cpus_allocated"] <= math.ceil(len(os.sched_getaffinity(0)))
    assert record["memory_bytes"] > 1e8


def test_it_is_quick_and_loads_no_framework() -> None:
    script = """
import sys, time
from mspipeline.provenance import provenance
times = []
for _ in range(3):
    started = time.perf_counter()
    provenance()
    times.append(time.perf_counter() - started)
print(min(times))
assert not {"tensorflow", "keras", "torch", "jax", "scipy", "nibabel"} & set(sys.modules)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(ended.stdout) < 0.1


def test_a_clean_checkout_gives_its_commit(checkout: Path) -> None:
    assert checkout_commit(checkout / "package") == git(checkout, "rev-parse", "HEAD")


def test_a_changed_file_makes_it_dirty(checkout: Path) -> None:
    (checkout / "package" / "module.py").write_text("A = 2\n")
    assert checkout_commit(checkout / "package") == git(checkout, "rev-parse", "HEAD") + "+dirty"


def test_a_file_that_git_does_not_track_does_not(checkout: Path) -> None:
    (checkout / "runs").write_text("results\n")
    assert checkout_commit(checkout / "package") == git(checkout, "rev-parse", "HEAD")


def test_a_package_installed_inside_another_checkout_has_no_commit(checkout: Path) -> None:
    (checkout / ".venv" / "package").mkdir(parents=True)
    (checkout / ".venv" / "package" / "module.py").touch()
    assert checkout_commit(checkout / ".venv" / "package") is None


def test_outside_a_checkout_or_without_git_there_is_no_commit(
    tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert checkout_commit(tmp_path) is None
    git(tmp_path, "init", "--quiet", str(tmp_path / "new"))
    (tmp_path / "new" / "module.py").touch()
    git(tmp_path / "new", "add", ".")
    assert checkout_commit(tmp_path / "new") is None  # nothing committed yet
    monkeypatch.setenv("PATH", str(tmp_path))
    assert checkout_commit(checkout / "package") is None


def test_a_package_that_is_not_installed_is_left_out() -> None:
    assert installed(["numpy", "no-such-package-anywhere"]) == {"numpy": np.__version__}


def test_the_cpu_is_named_as_the_kernel_does(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: AMD EPYC 7742: 64-Core\nmodel name\t: other\n")
    assert cpu_model(tmp_path / "cpuinfo") == "AMD EPYC 7742: 64-Core"
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nBogoMIPS\t: 50.00\n")
    assert cpu_model(tmp_path / "cpuinfo") is None
    assert cpu_model(tmp_path / "absent") is None


def test_a_job_of_slurm_is_named_as_squeue_names_it_and_outside_of_one_there_is_none() -> None:
    element = {"SLURM_JOB_ID": "13", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "0"}
    place = {"SLURM_JOB_PARTITION": "cpu", "SLURMD_NODENAME": "c1"}
    assert slurm_job({**element, **place}) == {"slurm_job_id": "12_0", "partition": "cpu", "node": "c1"}
    assert slurm_job({"SLURM_JOB_ID": "13"}) == {"slurm_job_id": "13", "partition": None, "node": None}
    assert slurm_job({**element, "SLURM_STEP_NODELIST": "c[1-2]", **place})["node"] == "c[1-2]"
    # A partition can be set for sbatch in a login shell, where nothing is a job.
    assert set(slurm_job(place).values()) == {None}
    record = provenance(environ={**element, **place})
    assert (record["slurm_job_id"], record["partition"], record["node"]) == ("12_0", "cpu", "c1")
