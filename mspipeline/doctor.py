"""What works on this machine, what is missing, and what to do about it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from mspipeline.backends.registry import BACKENDS, availability
from mspipeline.campaigns.finding import Finding
from mspipeline.campaigns.schedulers import SCHEDULERS, scheduler_named
from mspipeline.campaigns.site_file import load_site
from mspipeline.containers.builders import BUILDERS, builders_here
from mspipeline.datasets.layouts import LAYOUTS
from mspipeline.errors import SuiteError
from mspipeline.images.registry import FORMATS
from mspipeline.jobs.registry import JOBS
from mspipeline.losses import LOSSES
from mspipeline.metrics.scores import SCORES
from mspipeline.models.catalogue import MODELS
from mspipeline.optimizers import OPTIMIZERS, SCHEDULES
from mspipeline.recipes.catalogue import RECIPES
from mspipeline.telemetry.gpu import open_gpus
from mspipeline.transforms.registry import TRANSFORMS

FREE_DISK_GB = 5.0
REGISTRIES = (
    *(MODELS, BACKENDS, FORMATS, JOBS, LAYOUTS, LOSSES, OPTIMIZERS),
    *(RECIPES, SCHEDULES, SCHEDULERS, SCORES, TRANSFORMS),
)
"""Of every kind that packages add to."""


def examine(site: str, *, probe: bool = False) -> list[Finding]:
    """Look at Python, cores, memory, disk, backends, GPU, the site and its live cluster.

    probe: start a short job on each of the site's partitions too; else nothing is changed.
    """
    backends = [_backend(name) for name in BACKENDS.working()]
    here = [_python(), _machine(), _disk(), *backends, _gpu(), _image_builder(), *_packages()]
    return [*here, *examine_site(site, probe=probe)]


def _python() -> Finding:
    return Finding("Python", "ok", f"{'.'.join(map(str, sys.version_info[:3]))} in {sys.prefix}")


def _machine() -> Finding:
    cores = len(os.sched_getaffinity(0))
    memory_gb = psutil.virtual_memory().total / 1e9
    return Finding("machine", "ok", f"{cores} of {os.cpu_count()} cores may be used, {memory_gb:.0f} GB of memory")


def _disk() -> Finding:
    """Free room, and whether a file can be written at all."""
    here = Path.cwd()
    free_gb = shutil.disk_usage(here).free / 1e9
    try:
        with tempfile.NamedTemporaryFile(dir=here):
            pass
    except OSError as error:
        return Finding("disk", "broken", f"{here} cannot be written ({error.strerror})", "work in another folder")
    if free_gb < FREE_DISK_GB:
        return Finding(
            "disk", "broken", f"{free_gb:.1f} GB free in {here}", f"make room: {FREE_DISK_GB:.0f} GB or more"
        )
    return Finding("disk", "ok", f"{free_gb:.0f} GB free in {here}")


def _backend(name: str) -> Finding:
    """Whether a backend's framework loads; tried in a process of its own, as a job would."""
    found = availability(name)
    if found.problem:
        remedy = found.problem.partition("; ")[2]
        return Finding(f"backend {name}", "missing", found.problem.partition("; ")[0], remedy)
    script = f"from mspipeline.backends.registry import probe; print(probe({name!r}))"
    result = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=False)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1].removeprefix(
            "mspipeline.errors.BackendError: "
        )
        remedy = f"install it again: {BACKENDS[name].remedy}"
        return Finding(f"backend {name}", "broken", f"{found.version} does not run: {reason}", remedy)
    return Finding(f"backend {name}", "ok", f"{found.version}, on {result.stdout.strip()}")


def _packages() -> list[Finding]:
    """What other packages add to the suite, and what of it cannot be used."""
    findings = []
    for registry in REGISTRIES:
        findings += [
            Finding(
                f"{each.what} {each.name}", "broken", f"of package {each.package}: {each.reason}", "repair the package"
            )
            for each in registry.problems()
        ]
    return findings


def _gpu() -> Finding:
    gpus = open_gpus()
    if gpus is None:
        return Finding("GPU", "missing", "no NVIDIA driver answers", "jobs run on the CPU; GPU columns stay empty")
    names = gpus.names or [f"{len(gpus)} without a readable name"]
    return Finding("GPU", "ok", ", ".join(names))


def _image_builder() -> Finding:
    """The programs that `mspipeline image build` could use."""
    here = builders_here()
    working = [name for name, problem in here.items() if not problem]
    if working:
        return Finding("image builder", "ok", ", ".join(working))
    problems = (
        "; ".join(f"{name}: {problem}" for name, problem in here.items()) or f"none of {', '.join(BUILDERS)} is here"
    )
    return Finding("image builder", "missing", problems, "install one to build images, or pull them")


def examine_site(name: str, *, probe: bool = False) -> list[Finding]:
    """Look at a site, built-in or of a file, and its live cluster. probe: as in `examine`."""
    try:
        site = load_site(name)
    except SuiteError as error:
        return [Finding("site", "broken", str(error), "correct the site file, or name another one")]
    scheduler = scheduler_named(site.executor)
    return [*scheduler.findings(site), *(scheduler.probe(site, Path.cwd()) if probe else ())]
