"""The images that ours begin with, as `images.toml` names them."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from pydantic import Field, model_validator

from mspipeline.config import Strict, read_config
from mspipeline.errors import ConfigError

FILE = Path(__file__).parent / "images.toml"


class Base(Strict):
    """An image in a registry. digest: of its manifest, as the registry gave it on the day `resolved`.

    Without a digest nothing is built on it: a name means another image every week.
    """

    reference: str = Field(pattern=r"^[a-z0-9.\-]+(:[0-9]+)?/[^@\s]+:[^@\s:/]+$")
    digest: str | None = Field(None, pattern=r"^sha256:[0-9a-f]{64}$")
    resolved: date | None = None

    @model_validator(mode="after")
    def _a_digest_has_its_day(self) -> Base:
        if (self.digest is None) != (self.resolved is None):
            raise ValueError("digest and resolved belong together: write both, or neither")
        return self

    @property
    def pinned(self) -> str:
        """`NAME:TAG@sha256:...`, or `NAME:TAG` where no digest is known."""
        return self.reference if self.digest is None else f"{self.reference}@{self.digest}"


class Bases(Strict):
    """The whole of `images.toml`."""

    bases: dict[str, Base]


def base_named(name: str, file: Path = FILE) -> Base:
    """One of the bases. Raises ConfigError where the file does not have it, or is not what it should be."""
    bases = read_config(file, Bases).bases
    if name not in bases:
        raise ConfigError(f"{file}: no base {name!r}; it has {', '.join(sorted(bases))}; add [bases.{name}]")
    return bases[name]
