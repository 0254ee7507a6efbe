"""An image built from its recipe and tried out: what `mspipeline image build` and `image test` do."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from mspipeline import __version__
from mspipeline.campaigns.finding import Finding
from mspipeline.containers.bases import FILE, base_named
from mspipeline.containers.builders import SIF, Build, build_command
from mspipeline.containers.container import Container, argv
from mspipeline.containers.image_facts import check_image, look_into
from mspipeline.containers.programs import Say, last_words, run_program
from mspipeline.containers.recipes import PREFIX, Recipe
from mspipeline.errors import ConfigError, UsageError

RUNTIMES = ("docker", "podman", *SIF)
SMOKE_S = 900.0


def checkout() -> Path:
    """The repository that this package was installed from. Raises ConfigError where it was not from a checkout."""
    root = Path(__file__).resolve().parents[1]
    if not (root / "setup.cfg").is_file():
        raise ConfigError(
            f"{root}: no checkout of the repository, which images are built from; clone it, and run there"
        )
    return root


def tag_of(recipe: Recipe) -> str:
    """The name and tag under which docker and podman keep an image of this version."""
    return f"localhost/mspipeline-{recipe.name}:{__version__}"


def file_of(recipe: Recipe) -> str:
    """The name of the file that apptainer and singularity make."""
    return f"mspipeline-{recipe.name}_{__version__}.sif"


def chosen_base(recipe: Recipe, given: str | None) -> str:
    """What to build on. Raises ConfigError where neither the caller nor `images.toml` pins it."""
    base = base_named(recipe.base)
    if given is None and base.digest is None:
        raise ConfigError(
            f"{FILE.name}: base {recipe.base!r} ({base.reference}) has no digest, and its name means another image "
            f"every week; write the digest there, or build with `--base {base.reference}@sha256:...` or a local image"
        )
    return given or base.pinned


def check_lock(recipe: Recipe, root: Path) -> None:
    """Raise ConfigError where the image has no lock."""
    if not (root / recipe.lock).is_file():
        where = f", where {recipe.index} can be reached" if recipe.index else ""
        raise ConfigError(
            f"{root / recipe.lock}: image {recipe.name!r} has no lock of its packages; `make lock`{where}"
        )


def run_build(builder: str, build: Build, root: Path, say: Say) -> None:
    """Build an image, each line of the builder's passed on to `say`.

    Raises StorageError where the disk is full, ConfigError with the builder's last words where it fails otherwise.
    """
    run_program(build_command(builder, build), say, what=f"image {build.recipe.name!r}", folder=root)


def try_image(runtime: str, image: str, recipe: Recipe, *, gpu: bool = False) -> list[Finding]:
    """What `smoke` finds inside an image, which is first held against its recipe and the version of this code.

    image: a file for apptainer and singularity, a reference for docker and podman.
    Raises UsageError for what cannot run an image, ConfigError where it is not there, is another, or does not start.
    """
    if runtime not in RUNTIMES:
        raise UsageError(f"{runtime} runs no image; try it with {', '.join(RUNTIMES)}")
    facts = look_into(runtime, image)
    if facts is None:
        raise ConfigError(f"{runtime} is not installed here; install it, or choose another by --builder")
    check_image(facts, recipe.label, version=__version__)
    container = Container(runtime, image, folder="/tmp", gpu=gpu, user=None)
    command = argv(container, [f"{PREFIX}/bin/python", "-P", "-m", "mspipeline.containers.smoke", "--json"])
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SMOKE_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{image}: not done after {SMOKE_S:.0f} s; see whether {runtime} works") from None
    answers = [line for line in done.stdout.splitlines() if line.startswith("[")]
    if not answers:
        printed = last_words(done.stderr.splitlines())
        raise ConfigError(f"{image}: {runtime} ended with code {done.returncode} and no answer: {printed}")
    return [Finding(**each) for each in json.loads(answers[-1])]
