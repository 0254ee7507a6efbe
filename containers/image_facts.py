"""What an image says of itself: its digest, and the labels that tell which backend and version of the suite it holds.

Labels, of `docker build --label` and of `%labels` in an Apptainer definition:
    org.mspipeline.backend              a backend of `mspipeline doctor`
    org.opencontainers.image.version    version of the suite inside
    org.opencontainers.image.revision   its commit
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mspipeline.errors import ConfigError

BACKEND = "org.mspipeline.backend"
VERSION = "org.opencontainers.image.version"
REVISION = "org.opencontainers.image.revision"
INSPECT_S = 60.0


class ImageNotHere(ConfigError):
    """Docker or Podman on this machine does not have the image, or does not answer; another machine's may."""


@dataclass(frozen=True)
class ImageFacts:
    """An image that is there. digest: of the file, or as the registry gave it; None for an unpacked folder.

    backend, version, revision: what its labels say, None where they say nothing.
    """

    image: str
    digest: str | None
    backend: str | None = None
    version: str | None = None
    revision: str | None = None


def digest_of(runtime: str, image: str) -> str | None:
    """What tells this image from every other: `sha256:...` of the file, or of the reference.

    None for an unpacked folder, and for a reference without a digest that the runtime on this machine does not know.
    Reads the whole of a file, once: about a second a gigabyte.
    """
    if runtime in ("apptainer", "singularity"):
        path = Path(image)
        return _file_digest(path, path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None
    pinned = image.partition("@")[2]
    if pinned or shutil.which(runtime) is None:
        return pinned or None
    try:
        return _digest_in(_inspected(runtime, image))
    except ConfigError:
        return None


def look_into(runtime: str, image: str) -> ImageFacts | None:
    """What an image says of itself; None where the runtime is not on this machine.

    image: a path for apptainer and singularity, a reference for podman and docker.
    Raises ConfigError where the runtime cannot read the file, ImageNotHere where it has no such reference.
    """
    if shutil.which(runtime) is None:
        return None
    document = _inspected(runtime, image)
    if runtime in ("apptainer", "singularity"):
        labels, digest = document["data"]["attributes"].get("labels") or {}, digest_of(runtime, image)
    else:
        labels = (document.get("Config") or {}).get("Labels") or {}
        digest = image.partition("@")[2] or _digest_in(document)
    return ImageFacts(image, digest, *(labels.get(name) or None for name in (BACKEND, VERSION, REVISION)))


def commit_of(runtime: str, image: str) -> str | None:
    """The commit of the suite inside an image, by its label; None where it has none or cannot be looked into here."""
    try:
        facts = look_into(runtime, image)
    except ConfigError:
        return None
    return None if facts is None else facts.revision


def check_image(facts: ImageFacts, backend: str, *, version: str, pinned: str | None = None) -> None:
    """Raise ConfigError where an image is not the one a site means for this backend.

    version: of the suite that submits. pinned: digest that the site file names. A label that is not there proves
    nothing and is not judged.
    """
    about = f"{facts.image} ({facts.digest or 'no digest'})"
    if pinned and facts.digest != pinned:
        raise ConfigError(
            f"{about}: not the image that the site pins for backend {backend!r}, {pinned}; "
            "put that one back, or write the new digest into the site file"
        )
    if facts.backend not in (None, backend):
        raise ConfigError(
            f"{about}: an image of backend {facts.backend!r}, named for {backend!r}; correct [images] of the site file"
        )
    if facts.version not in (None, version):
        raise ConfigError(
            f"{about}: holds version {facts.version} of the suite, and {version} submits; "
            "build it again, or submit with the version that it holds"
        )


@lru_cache
def _file_digest(path: Path, changed_ns: int, size_bytes: int) -> str:
    """changed_ns, size_bytes: of the file, so that a new one of that name is read again."""
    with path.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def _inspected(runtime: str, image: str) -> Any:
    """The runtime's own description. Raises ConfigError in one line where it gives none."""
    oci = runtime in ("docker", "podman")
    command = [runtime, "image", "inspect", image] if oci else [runtime, "inspect", "--json", image]
    remedy = f"`{runtime} pull` it" if oci else "build or copy it there"
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSPECT_S)
        document = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, json.JSONDecodeError) as error:
        raise ConfigError(f"{image}: {runtime} says nothing of it ({error}); see whether {runtime} works") from error
    if document is None:
        problem = " ".join(done.stderr.split())
        missing = "no such" in problem.lower() or "not known" in problem.lower()
        what = (
            f"no such image for {runtime} on this machine" if missing else f"{runtime} cannot read it ({problem[:300]})"
        )
        kind = ImageNotHere if oci else ConfigError
        raise kind(f"{image}: {what}; {remedy}, or correct [images] of the site file")
    return document[0] if oci else document


def _digest_in(document: Mapping[str, Any]) -> str | None:
    """The registry's digest where the image came from one, else that of what was built here."""
    pulled = [each.partition("@")[2] for each in document.get("RepoDigests") or []]
    own = str(document.get("Id") or "").removeprefix("sha256:")
    return next(iter(pulled), f"sha256:{own}" if own else None)
