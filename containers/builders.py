"""Programs that build images, and the command line by which each builds one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field

from mspipeline.containers.programs import last_words
from mspipeline.containers.recipes import Recipe
from mspipeline.errors import ConfigError, UsageError, nearest

SIF = ("apptainer", "singularity")
"""Builders of one file; the others keep images in a store of their own, by name and tag."""
BUILDERS = ("docker", "podman", "buildah", *SIF)
ANSWER_S = 30.0


@dataclass(frozen=True)
class Build:
    """One build. target: the file to make, or the name and tag. base: what both stages begin with.

    arguments: further build arguments; empty ones are left out. options: further words for the builder.
    """

    recipe: Recipe
    target: str
    base: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()


def build_command(builder: str, build: Build) -> list[str]:
    """How a builder builds an image; run it in the repository's root. Raises UsageError for an unknown builder.

    >>> from mspipeline.containers.recipes import RECIPES
    >>> build_command("podman", Build(RECIPES["host"], "host:1", "python:3.12@sha256:1"))[2:4]
    ['--build-arg', 'BASE=python:3.12@sha256:1']
    """
    check_builder(builder)
    digest = build.base.partition("@")[2]
    values = {"BASE": build.base, "BASE_DIGEST": digest, **build.arguments}
    arguments = [word for name, value in values.items() if value for word in ("--build-arg", f"{name}={value}")]
    definition = f"containers/generated/{build.recipe.name}"
    if builder in SIF:
        return [builder, "build", *build.options, *arguments, build.target, f"{definition}.def"]
    kind = ["--format", "docker"] if builder in ("podman", "buildah") else []
    words = [*arguments, "--tag", build.target, *kind, "--file", f"{definition}.Dockerfile", *build.options, "."]
    return [builder, "build", *words]


def check_builder(name: str) -> None:
    """Raise UsageError, with the nearest name, for a builder that is none."""
    if name not in BUILDERS:
        raise UsageError(f"unknown builder {name!r}; {nearest(name, BUILDERS)}")


def builders_here() -> dict[str, str]:
    """What each builder that is installed here says against building, by name: empty where it answers."""
    return {name: _problem(name) for name in BUILDERS if shutil.which(name)}


def choose_builder(wanted: str | None, here: Mapping[str, str]) -> str:
    """The builder that was asked for, else the first that answers.

    here: as `builders_here` gives it. Raises UsageError for a name that is none, ConfigError where there is no builder.
    """
    if wanted is not None:
        check_builder(wanted)
        if wanted not in here:
            raise ConfigError(f"builder {wanted} is not installed here; there is {', '.join(here) or 'none'}")
        if here[wanted]:
            raise ConfigError(f"builder {wanted} does not work here: {here[wanted]}")
        return wanted
    for name, problem in here.items():
        if not problem:
            return name
    if here:
        problems = "; ".join(f"{name}: {problem}" for name, problem in here.items())
        raise ConfigError(f"no builder of images works here: {problems}; start one of them, or install another")
    raise ConfigError(f"no builder of images here; install one of {', '.join(BUILDERS)}, e.g. `apt-get install podman`")


def _problem(name: str) -> str:
    """Why a builder cannot be used, in a line; empty where it answers. Docker's needs its daemon."""
    command = [name, "--version"] if name in SIF else [name, "info"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ANSWER_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return " ".join(str(error).split())
    return "" if done.returncode == 0 else last_words(done.stderr.splitlines())
