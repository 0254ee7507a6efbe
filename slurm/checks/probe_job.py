"""What a probe runs on a node: looks at what a cell would need there and prints a line of JSON for each thing.

python -P -m mspipeline.slurm.checks.probe_job '{"site": {...}, "partition": "cpu", "folder": "/shared/probe"}'
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from mspipeline import __version__
from mspipeline.campaigns.finding import Finding
from mspipeline.campaigns.site import Site
from mspipeline.config import Strict, parse
from mspipeline.containers.container import argv, expand, parse_bind
from mspipeline.errors import ConfigError
from mspipeline.slurm.on_node.node import NodeEnvironment, container_of
from mspipeline.telemetry.gpu import open_gpus

LINE = "finding "
IMAGE_S = 60.0
MARK = "submitted"
"""File that the submitting machine put into the folder: who reads it sees the same folder."""
_IMPORT = "import mspipeline; print(mspipeline.__version__)"


class Probe(Strict):
    """What is looked at. folder: of the submitting machine, absolute; holds the file MARK."""

    site: Site
    partition: str
    folder: str


def findings(probe: Probe) -> Iterator[Finding]:
    """Look at this node. Writes and removes a file in the folder and in scratch."""
    site = probe.site
    yield Finding("python", "ok", f"{sys.executable} has mspipeline {__version__}")
    yield _cores(os.environ)
    yield _folder(Path(probe.folder))
    if site.scratch:
        yield _scratch(site.scratch)
    for text in site.binds:
        yield _bind(text)
    gpu = site.partitions[probe.partition].device == "gpu"
    if gpu:
        yield _gpus()
    if site.container != "none":
        path = shutil.which(site.container)
        if path is None:
            remedy = "name the module that has it in `modules` of the site file, or another container"
            yield Finding(f"container {site.container}", "broken", "not on the PATH", remedy)
            return
        yield Finding(f"container {site.container}", "ok", path)
        for backend in sorted(site.images):
            yield _image(site, backend, probe.folder, gpu=gpu)


def _cores(environ: Mapping[str, str]) -> Finding:
    """How many cores this task may run on, beside how many it asked for."""
    asked, has = environ.get("SLURM_CPUS_PER_TASK", ""), len(os.sched_getaffinity(0))
    if not asked.isdecimal():
        return Finding("cores", "missing", f"SLURM does not tell how many it gave; {has} may be used", "ask its staff")
    if has < int(asked):
        detail = f"{asked} were asked for and the task is bound to {has}: cells would be as slow as that"
        return Finding("cores", "broken", detail, "ask the site's staff (TaskPlugin, TaskPluginParam of slurm.conf)")
    bound = (
        "" if has == int(asked) else f", of {has} that it sees: nothing binds, so `threads = 0` counts what was asked"
    )
    return Finding("cores", "ok", f"the task has the {asked} that it asked for{bound}")


def _folder(folder: Path) -> Finding:
    remedy = "run from a folder that is on a file system which the nodes share"
    if not (folder / MARK).exists():
        return Finding("output folder", "broken", f"{folder.parent} here is not that of the submitting machine", remedy)
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            return Finding("output folder", "ok", f"{folder.parent} is seen and can be written")
    except OSError as error:
        return Finding("output folder", "broken", f"{folder.parent} cannot be written ({error.strerror})", remedy)


def _scratch(text: str) -> Finding:
    what = f"scratch {text}"
    try:
        folder = Path(expand(text, os.environ))
    except ConfigError as error:
        return _refused(what, error)
    try:
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            free_gb = shutil.disk_usage(folder).free / 1e9
        if made:
            folder.rmdir()
    except OSError as error:
        return Finding(
            what, "broken", f"{folder} cannot be written ({error.strerror})", "correct scratch in the site file"
        )
    return Finding(what, "ok", f"{folder} can be written, {free_gb:.0f} GB free")


def _bind(text: str) -> Finding:
    what = f"bind {text}"
    try:
        source = parse_bind(text, os.environ).source
    except ConfigError as error:
        return _refused(what, error)
    if Path(source).exists():
        return Finding(what, "ok", f"{source} is there")
    return Finding(what, "broken", f"no {source}", "correct binds in the site file")


def _gpus() -> Finding:
    """The GPUs that the job was given, and whether a driver knows them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = open_gpus(given)
    if gpus is None or not gpus.names:
        detail = f"no NVIDIA driver answers (CUDA_VISIBLE_DEVICES is {given or 'not set'})"
        return Finding("GPU", "broken", detail, "have the node's driver looked at, or correct device and gres")
    return Finding("GPU", "ok", f"{', '.join(gpus.names)} (CUDA_VISIBLE_DEVICES is {given or 'not set'})")


def _image(site: Site, backend: str, folder: str, *, gpu: bool) -> Finding:
    """Starts the image as a cell would, and asks it for the suite inside."""
    what = f"image {backend!r}"
    try:
        given = NodeEnvironment(
            container=site.container,
            image=site.image_for(backend),
            gpu=gpu,
            folders=(folder,),
            binds=site.binds,
            pass_environment=site.pass_environment,
        )
        command = argv(container_of(given, folder, os.environ), ["python", "-P", "-c", _IMPORT])
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=IMAGE_S)
    except ConfigError as error:
        return _refused(what, error)
    except subprocess.TimeoutExpired:
        return Finding(what, "broken", f"did not start within {IMAGE_S:.0f} s", "copy it to a faster folder")
    if done.returncode:
        problem = " ".join((done.stderr.strip() or done.stdout.strip()).split())[-300:] or f"code {done.returncode}"
        return Finding(what, "broken", f"{given.image} does not run here: {problem}", "build or copy it for this node")
    version = (done.stdout.split() or ["?"])[-1]
    if version != __version__:
        detail = f"{given.image} holds version {version} of the suite, and {__version__} submits"
        return Finding(what, "broken", detail, "build it again, or submit with the version that it holds")
    return Finding(what, "ok", f"{given.image} runs, version {version}")


def _refused(what: str, error: ConfigError) -> Finding:
    """An error as a finding: it names its subject first and its remedy last."""
    detail, _, remedy = str(error).partition(": ")[2].rpartition("; ")
    return Finding(what, "broken", detail, remedy)


def main() -> int:
    """Print what was found, each as soon as it is known."""
    for finding in findings(parse(json.loads(sys.argv[1]), Probe, where="probe")):
        print(LINE + json.dumps(asdict(finding)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
