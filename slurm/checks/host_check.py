"""What of a site can be looked at on this machine without its scheduler: modules, container runtime, images, folders.

A login node need not have what the nodes have, and the other way round: what is not here is `missing`, not `broken`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from mspipeline import __version__
from mspipeline.campaigns.finding import Finding
from mspipeline.campaigns.site import Site
from mspipeline.containers.container import expand, parse_bind
from mspipeline.containers.image_facts import (
    BACKEND,
    VERSION,
    ImageFacts,
    ImageNotHere,
    check_image,
    digest_of,
    look_into,
)
from mspipeline.errors import ConfigError
from mspipeline.slurm.site_rules import setup_lines

ON_NODES = "`mspipeline doctor --site FILE --probe` looks on the nodes"
MODULE_S = 60.0


def host_findings(site: Site) -> Iterator[Finding]:
    """Modules, container runtime, images of all backends, binds and scratch, as this machine sees them."""
    yield from _modules(site)
    yield from _container(site)
    yield from image_findings(site, sorted(site.images))
    yield from _folders(site)


def image_findings(site: Site, backends: Iterable[str]) -> Iterator[Finding]:
    """Each backend's image: there, the one that the site pins, of that backend and of this version, with its digest."""
    for backend in backends if site.container != "none" else ():
        what = f"image {backend!r}"
        try:
            image = site.image_for(backend)
            pinned = site.images[backend].digest
            facts = look_into(site.container, image)
            known = facts or ImageFacts(image, digest_of(site.container, image) if pinned else None)
            check_image(known, backend, version=__version__, pinned=pinned)
        except ImageNotHere as error:  # Docker and Podman keep theirs on each machine: here says nothing of the nodes
            yield Finding(what, "missing", str(error).rpartition("; ")[0], ON_NODES)
        except ConfigError as error:
            detail, _, remedy = str(error).rpartition("; ")
            yield Finding(what, "broken", detail.removeprefix(f"site {site.name}: "), remedy)
        else:
            yield _image(what, known, site.container, looked=facts is not None)


def _image(what: str, facts: ImageFacts, runtime: str, *, looked: bool) -> Finding:
    """An image that nothing speaks against."""
    about = f"{facts.image}, {facts.digest or 'without a digest'}"
    unsaid = [name for name, value in ((BACKEND, facts.backend), (VERSION, facts.version)) if value is None]
    if not looked:
        return Finding(what, "missing", f"{about}: not looked into, no {runtime} on this machine", ON_NODES)
    if unsaid:
        remedy = "build it with these labels, so that a wrong image is refused before cells run"
        return Finding(what, "missing", f"{about}: has no label {' and no '.join(unsaid)}", remedy)
    commit = f", commit {facts.revision}" if facts.revision else ""
    return Finding(what, "ok", f"{about}, version {facts.version}{commit}")


def _modules(site: Site) -> Iterator[Finding]:
    """Loads them in a shell of their own, as a batch script does."""
    if not site.modules:
        return
    what = f"modules {', '.join(site.modules)}"
    script = "\n".join(["type module >/dev/null 2>&1 || exit 99", "set -e", *setup_lines(site)])
    try:
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=MODULE_S)
    except subprocess.TimeoutExpired:
        yield Finding(what, "broken", f"not loaded within {MODULE_S:.0f} s", "see whether `module load` works by hand")
        return
    if done.returncode == 99:
        yield Finding(what, "missing", "this shell has no `module`", f"start a login shell; {ON_NODES}")
    elif done.returncode:
        problem = " ".join(done.stderr.split())[:300]
        yield Finding(what, "broken", f"not loaded: {problem}", "correct modules in the site file, see `module avail`")
    else:
        yield Finding(what, "ok", "load here")


def _container(site: Site) -> Iterator[Finding]:
    if site.container == "none":
        return
    path = shutil.which(site.container)
    if path:
        yield Finding(f"container {site.container}", "ok", f"{path} on this machine")
    else:
        yield Finding(f"container {site.container}", "missing", "not on this machine, the nodes may have it", ON_NODES)
    if site.image_folder and not site.image_folder.is_dir():
        remedy = "correct image_folder in the site file"
        yield Finding("image folder", "broken", f"{site.image_folder}: no such folder here", remedy)


def _folders(site: Site) -> Iterator[Finding]:
    """Binds and scratch: seen from here where they name no variable of a job."""
    for text in site.binds:
        try:
            source = parse_bind(text, os.environ).source
        except ConfigError:
            yield Finding(f"bind {text}", "missing", "names a variable of the job", ON_NODES)
            continue
        if Path(source).exists():
            yield Finding(f"bind {text}", "ok", f"{source} is here")
        else:
            yield Finding(f"bind {text}", "missing", f"no {source} on this machine, the nodes may have it", ON_NODES)
    if site.scratch:
        try:
            where = f"{expand(site.scratch, os.environ)}, made on the node where it is not there"
        except ConfigError:
            where = "names a variable of the job"
        yield Finding(f"scratch {site.scratch}", "missing", where, ON_NODES)
