"""Where a row came from: source, image, versions, machine. Plain JSON data; what is not known is None."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from mspipeline.telemetry.allocation import allocated_cpus, allocated_memory_bytes
from mspipeline.telemetry.gpu import open_gpus

PACKAGES = (
    *("numpy", "scipy", "h5py", "nibabel", "pyarrow", "submitit"),
    *("keras", "tensorflow", "tensorflow-cpu", "torch", "jax", "pyeddl", "onnx", "onnxruntime", "numba"),
)
_GIT_TIMEOUT_S = 5.0


def provenance(
    *,
    commit: str | None = None,
    image_digest: str | None = None,
    visible_gpus: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The record that `run.json` keeps. Takes a few tens of milliseconds and imports no framework.

    commit: of the source, where the caller knows it (an image holds no checkout); else that of the checkout this
    package lies in. visible_gpus: CUDA_VISIBLE_DEVICES of the job, None where it is not set. environ: variables of the
    process, for `slurm_job`.
    """
    gpu_names, gpu_driver = _gpus(visible_gpus)
    cpus = allocated_cpus(os.getpid())
    return {
        "commit": commit or checkout_commit(Path(__file__).resolve().parent),
        "image_digest": image_digest,
        "versions": installed(PACKAGES),
        "python": platform.python_version(),
        "host": platform.node(),
        **slurm_job(environ or {}),
        "kernel": platform.release(),
        "cpu_model": cpu_model(Path("/proc/cpuinfo")),
        "cpus_allocated": None if cpus is None else math.ceil(cpus),
        "memory_bytes": allocated_memory_bytes(os.getpid()),
        "gpu_name": gpu_names,
        "gpu_driver": gpu_driver,
    }


def slurm_job(environ: Mapping[str, str]) -> dict[str, str | None]:
    """The job of SLURM that a process belongs to, as squeue and sacct write it; null outside of one.

    An element of a job array is `12_0`; several nodes of one step are `c[1-2]`.

    >>> slurm_job({"SLURM_JOB_ID": "13", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "0"})["slurm_job_id"]
    '12_0'
    """
    job = environ.get("SLURM_JOB_ID")
    array, element = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    return {
        "slurm_job_id": f"{array}_{element}" if job and array and element else job,
        "partition": environ.get("SLURM_JOB_PARTITION") if job else None,
        "node": (environ.get("SLURM_STEP_NODELIST") or environ.get("SLURMD_NODENAME")) if job else None,
    }


def checkout_commit(folder: Path) -> str | None:
    """The commit of the git checkout that tracks `folder`, with `+dirty` where tracked files were changed.

    None outside a checkout, without git, and where the folder merely lies in one (an environment in another project).
    """
    if not _git(folder, "ls-files", "."):
        return None
    status = _git(folder, "status", "--porcelain=v2", "--branch", "--untracked-files=no")
    lines = (status or "").splitlines()
    commits = [line.split()[2] for line in lines if line.startswith("# branch.oid ")]
    if not commits or commits[0] == "(initial)":
        return None
    return commits[0] + ("+dirty" if any(not line.startswith("#") for line in lines) else "")


def installed(packages: Sequence[str]) -> dict[str, str]:
    """Version of each package that is installed; the others are left out. Nothing is imported."""
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def cpu_model(cpuinfo: Path) -> str | None:
    """The processor's name in `/proc/cpuinfo`; None where there is none (ARM)."""
    try:
        with cpuinfo.open(encoding="utf-8", errors="replace") as lines:
            return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
    except OSError:
        return None


def _gpus(visible: str | None) -> tuple[str | None, str | None]:
    """Names of the GPUs, each once, and the driver's version."""
    gpus = open_gpus(visible)
    if gpus is None:
        return None, None
    names, driver = ", ".join(sorted(set(gpus.names))), gpus.driver
    gpus.close()
    return names or None, driver


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints in `folder`; None where it fails. Takes no lock: the checkout may be read-only."""
    try:
        answer = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True,
            check=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout
