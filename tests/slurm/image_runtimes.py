"""Container runtimes for tests, private to them, each with an image that borrows this machine's programs.

The image itself holds folders, labels and the file /etc/image-name alone: /usr, Python and this repository are bound
into it by the site. So it is made in a moment, and everything else is as with any other image: user, environment,
binds, signals, what the runtime says of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mspipeline import __version__

REPOSITORY = Path(__file__).parents[2]
BINDS = tuple(dict.fromkeys(f"{each}:ro" for each in ("/usr", sys.base_prefix, sys.prefix, str(REPOSITORY))))
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LABELS = {
    "org.mspipeline.backend": "tensorflow",
    "org.opencontainers.image.version": __version__,
    "org.opencontainers.image.revision": COMMIT,
}
ENVIRONMENT = {"PATH": "/opt/bin:/usr/bin:/bin"}
if "PYTHONPATH" in os.environ:
    ENVIRONMENT["PYTHONPATH"] = os.environ["PYTHONPATH"]
CONTAINERS_CONF = """\
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
{runc}
[containers]
default_ulimits = ["nofile=1024:4096", "nproc=1024:4096"]
"""


class NoRuntime(Exception):
    """Why a runtime cannot be had here, with the packages to install."""


@dataclass(frozen=True)
class Runtime:
    """A runtime that works. environment: of the programs that use it. image: made with LABELS."""

    name: str
    image: str
    environment: dict[str, str] = field(default_factory=dict)

    def another(self, folder: Path, labels: dict[str, str]) -> str:
        """A second image, with other labels."""
        return _made(self.name, folder, "other", labels, self.environment)


@contextmanager
def start_runtime(name: str) -> Iterator[Runtime]:
    """A runtime with its image, on private files that are gone afterwards. Raises NoRuntime where it cannot be had."""
    start = {"docker": _docker, "podman": _podman, "apptainer": _apptainer}[name]
    with tempfile.TemporaryDirectory(prefix=f"mspipeline-{name}-") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        with start(folder) as environment:
            yield Runtime(name, _made(name, folder, "app", LABELS, environment), environment)


@contextmanager
def _docker(folder: Path) -> Iterator[dict[str, str]]:
    if os.getuid() or not shutil.which("dockerd") or not shutil.which("docker"):
        raise NoRuntime("no Docker of root's here; apt-get install -y --no-install-recommends docker.io")
    host = f"unix://{folder}/docker.sock"
    options = {"data-root": "data", "exec-root": "exec", "pidfile": "pid"}
    with (folder / "dockerd.log").open("wb") as log:
        daemon = subprocess.Popen(
            ["dockerd", "--iptables=false", "--bridge=none", f"--host={host}"]
            + [f"--{option}={folder / name}" for option, name in options.items()],
            stdout=log,
            stderr=log,
        )
    environment = {"DOCKER_HOST": host}
    try:
        ends = time.monotonic() + 60
        while _said(["docker", "version"], environment).returncode:
            if daemon.poll() is not None or time.monotonic() > ends:
                last = (folder / "dockerd.log").read_text().splitlines()[-1:]
                raise NoRuntime(f"dockerd does not start here: {last}")
            time.sleep(0.1)
        yield environment
    finally:
        daemon.terminate()
        daemon.wait(60)
        _said(["umount", "--lazy", str(folder / "exec" / "netns" / "default")], {})  # dockerd leaves it mounted


@contextmanager
def _podman(folder: Path) -> Iterator[dict[str, str]]:
    if not shutil.which("podman"):
        raise NoRuntime("no Podman here; apt-get install -y --no-install-recommends podman runc")
    runc = 'runtime = "runc"' if shutil.which("runc") else ""
    (folder / "containers.conf").write_text(CONTAINERS_CONF.format(runc=runc))
    store = f'[storage]\ndriver = "overlay"\nrunroot = "{folder}/run"\ngraphroot = "{folder}/graph"\n'
    (folder / "storage.conf").write_text(store)
    files = {"CONTAINERS_CONF": "containers.conf", "CONTAINERS_STORAGE_CONF": "storage.conf"}
    environment = {name: str(folder / file) for name, file in files.items()}
    said = _said(["podman", "info"], environment)
    if said.returncode:
        raise NoRuntime(f"podman does not work here: {said.stderr.strip()}")
    try:
        yield environment
    finally:
        _said(["podman", "system", "reset", "--force"], environment)


@contextmanager
def _apptainer(folder: Path) -> Iterator[dict[str, str]]:
    if not shutil.which("apptainer"):
        raise NoRuntime("no Apptainer here; install the package apptainer of apptainer.org or Debian unstable")
    yield {"APPTAINER_UNSQUASH": "1"}  # not every user may use /dev/fuse


def _made(runtime: str, folder: Path, name: str, labels: dict[str, str], environment: dict[str, str]) -> str:
    """An image: its reference, or its file."""
    root = folder / f"{name}-root"
    for inside in ("tmp", "proc", "sys", "dev", "etc", "run", "var/tmp", *(bind[1:-3] for bind in BINDS)):
        (root / inside).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    for link in ("bin", "lib", "lib64", "sbin"):
        (root / link).symlink_to(f"usr/{link}")
    (root / "opt" / "bin").mkdir(parents=True)
    python = root / "opt" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (root / "etc" / "image-name").write_text(f"{name}\n")
    if runtime == "apptainer":
        parts = [f"Bootstrap: localimage\nFrom: {root}\n\n%labels"]
        parts += [f"    {key} {value}" for key, value in labels.items()]
        parts += ["\n%environment", *(f"    export {key}='{value}'" for key, value in ENVIRONMENT.items())]
        definition = folder / f"{name}.def"
        definition.write_text("\n".join(parts) + "\n")
        image = folder / f"{name}.sif"
        for command in (["build", str(image), str(definition)], ["exec", "--bind", "/usr:/usr:ro", str(image), "true"]):
            said = _said(["apptainer", *command], environment)
            if said.returncode:
                raise NoRuntime(f"apptainer does not {command[0]} here as this user: {' '.join(said.stderr.split())}")
        return str(image)
    changes = [f"LABEL {key}={value}" for key, value in labels.items()]
    changes += [f"ENV {key}={value}" for key, value in ENVIRONMENT.items()]
    archive = folder / f"{name}.tar"
    subprocess.run(["tar", "-C", str(root), "-cf", str(archive), "."], check=True)
    tag = f"localhost/mspipeline-{name}:1"
    words = [word for change in changes for word in ("--change", change)]
    said = _said([runtime, "import", *words, str(archive), tag], environment)
    if said.returncode:
        raise NoRuntime(f"{runtime} imports no image here: {said.stderr.strip()}")
    return tag


def _said(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
