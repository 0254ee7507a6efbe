"""Images on their way: to a registry and back by digest, and as files where there is no way out."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mspipeline import __version__
from mspipeline.config import Strict, read_config
from mspipeline.containers.image_facts import ImageFacts, check_image, look_into
from mspipeline.containers.programs import Say, run_program
from mspipeline.containers.recipes import Recipe
from mspipeline.errors import ConfigError, DataError, UsageError
from mspipeline.files import sha256_file, whole_file, write_json

STORES = ("docker", "podman")
"""Programs that keep images by name; the files of the others are copied."""
_PINNED = re.compile(r"[a-z0-9][a-z0-9.\-]*(:[0-9]+)?(/[a-z0-9._\-]+)+(:[\w.\-]+)?@(sha256:[0-9a-f]{64})")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Archive(Strict):
    """What stands beside an image's file, in `FILE.json`. image: its name in the store. sha256: of the file."""

    image: str
    sha256: str


def push(program: str, image: str, destination: str, say: Say, options: Sequence[str] = ()) -> str:
    """Send an image to a registry; `NAME@sha256:...` by which it is pulled from there.

    destination: NAME:TAG with the registry's host. Raises ConfigError where the registry does not take it.
    """
    _check_store(program)
    what = f"push to {destination}"
    if program == "docker":
        run_program(["docker", "tag", image, destination], say, what=what)
        lines = run_program(["docker", "push", *options, destination], say, what=what)
        found = _DIGEST.search(next((line for line in reversed(lines) if "digest: " in line), ""))
    else:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "digest"
            run_program([program, "push", "--digestfile", str(file), *options, image, destination], say, what=what)
            found = _DIGEST.fullmatch(file.read_text().strip())
    if found is None:
        raise ConfigError(f"{what}: {program} named no digest; ask the registry for it")
    name = destination if destination.rfind(":") < destination.rfind("/") else destination.rpartition(":")[0]
    return f"{name}@{found[0]}"


def pull(program: str, reference: str, recipe: Recipe, say: Say, options: Sequence[str] = ()) -> ImageFacts:
    """Fetch an image by digest into the store, and hold it against its recipe and this version.

    Raises UsageError for a reference without a digest and for a file, ConfigError where the registry does not give
    it, gives another, or it is an image of something else.
    """
    _check_store(program)
    check_pinned(reference)
    run_program([program, "pull", *options, reference], say, what=f"pull of {reference}")
    return verify(program, reference, recipe)


def verify(program: str, reference: str, recipe: Recipe) -> ImageFacts:
    """What an image of the store says, where it is the one of that digest, of this recipe and this version.

    Raises UsageError and ConfigError as `pull` does.
    """
    _check_store(program)
    check_pinned(reference)
    facts = look_into(program, reference)
    if facts is None:
        raise ConfigError(f"{program} is not installed here; install it, or choose another by --builder")
    check_image(facts, recipe.label, version=__version__)
    return facts


def check_pinned(reference: str) -> None:
    """Raise UsageError for what is no `HOST/NAME@sha256:...`; a file is never looked for in a registry."""
    if Path(reference).exists() or reference.startswith(("/", ".")):
        raise UsageError(f"{reference}: a file, not an image in a registry; `mspipeline image load` takes files")
    if not _PINNED.fullmatch(reference):
        raise UsageError(f"{reference}: expected HOST/NAME@sha256:..., as `mspipeline image push` prints it")


def save(program: str, image: str, file: Path, say: Say) -> None:
    """Write an image of the store as one file, with its SHA-256 in `FILE.json`. Raises StorageError, ConfigError."""
    _check_store(program)
    kind = ["--format", "docker-archive"] if program == "podman" else []
    with whole_file(file) as partial:
        run_program([program, "save", *kind, "--output", str(partial), image], say, what=f"save of {image}")
    write_json(record_of(file), Archive(image=image, sha256=sha256_file(file)).model_dump())


def load(program: str, file: Path, say: Say) -> str:
    """Take an image from a file into the store; its name there.

    Raises DataError where the file is not the one that `save` wrote, ConfigError where the store does not take it.
    """
    _check_store(program)
    archive = check_archive(file)
    run_program([program, "load", "--input", str(file)], say, what=f"load of {file}")
    return archive.image


def check_archive(file: Path) -> Archive:
    """What stands beside an image's file. Raises DataError where the file, or its record, is missing or another."""
    if not file.is_file():
        raise DataError(f"{file}: no such file; `mspipeline image save` writes one")
    if not record_of(file).is_file():
        raise DataError(f"{record_of(file)}: no such file, with the hash of {file.name}; copy it along")
    archive = read_config(record_of(file), Archive)
    if (found := sha256_file(file)) != archive.sha256:
        raise DataError(
            f"{file}: not the file that was saved (SHA-256 {found[:12]}..., {archive.sha256[:12]}... in "
            f"{record_of(file).name}); copy it again"
        )
    return archive


def record_of(file: Path) -> Path:
    """The file beside an image's that has its hash."""
    return file.with_name(f"{file.name}.json")


def _check_store(program: str) -> None:
    if program not in STORES:
        raise UsageError(f"{program} keeps no images by name; use --builder {' or '.join(STORES)}")
