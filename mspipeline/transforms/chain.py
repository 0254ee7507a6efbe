"""A chain of transforms, as a configuration lists them, and the random numbers of each link.

A link draws from a Philox stream (Salmon et al. 2011) of its own, keyed by the run's seed, the epoch, the case, the
place in it, and the link's name with its number among those of one name. So a resumed training draws what it would have
drawn, neighbours share nothing, and another link changes nobody's numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mspipeline.config import parse
from mspipeline.errors import ConfigError
from mspipeline.transforms.registry import TRANSFORMS
from mspipeline.transforms.transform import FloatArray, ImageTransform, Labels


@dataclass(frozen=True)
class Link:
    """A transform of a chain. number: among those of its name, from 0."""

    transform: ImageTransform
    number: int

    def generator(self, seed: int, epoch: int, case: str, place: int) -> np.random.Generator:
        """The random numbers of this link for one image."""
        words = json.dumps([seed, epoch, case, place, self.transform.name, self.number]).encode()
        key = hashlib.blake2b(words, digest_size=16).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


@dataclass(frozen=True)
class Chain:
    """Transforms, one after the other; none changes nothing."""

    links: tuple[Link, ...] = ()

    def __call__(
        self, image: FloatArray, labels: Labels, *, seed: int, epoch: int, case: str, place: int
    ) -> tuple[FloatArray, Labels]:
        """An image (*spatial, C) and its labels (*spatial) or (*spatial, 1), as they are learned from.

        seed: of the run. case, place: whose image it is, and which of its images.
        Raises ConfigError where the transform of another package fails or changes a shape.
        """
        for link in self.links:
            random = link.generator(seed, epoch, case, place)
            if link.transform.name in TRANSFORMS.built_in:
                image, labels = link.transform(image, labels, random)
            else:
                image, labels = _of_package(link.transform, image, labels, random)
        return image, labels


def make_chain(given: Sequence[Mapping[str, Any]], image_shape: tuple[int, ...], *, where: str) -> Chain:
    """The chain that a configuration lists: each link a table of its `name` and settings.

    image_shape: (*spatial, C) of what it changes. where: the key of the list, for error lines.
    Raises ConfigError for an unknown transform or setting, with the nearest, and for a value that does not fit.
    """
    links: list[Link] = []
    before: Counter[str] = Counter()
    for place, table in enumerate(given):
        here = f"{where}[{place}]"
        settings = dict(table)
        name = settings.pop("name", None)
        if not isinstance(name, str):
            raise ConfigError(f"{here}: expected a table with the name of a transform, such as {{name = 'flip'}}")
        try:
            kind = TRANSFORMS[name]
        except ConfigError as error:
            raise ConfigError(f"{here}: {error}") from error
        transform = parse(settings, kind, where=f"{here} ({name})")
        try:
            transform.check(image_shape)
        except ValueError as error:
            raise ConfigError(f"{here} ({name}): {error}") from error
        links.append(Link(transform, before[name]))
        before[name] += 1
    return Chain(tuple(links))


def _of_package(
    transform: ImageTransform, image: FloatArray, labels: Labels, random: np.random.Generator
) -> tuple[FloatArray, Labels]:
    """What a stranger's transform makes of an image; whatever goes wrong is said in its name."""
    try:
        changed, moved = transform(image, labels, random)
        if (changed.shape, moved.shape) != (image.shape, labels.shape):
            raise ValueError(f"it made {changed.shape} and {moved.shape} of {image.shape} and {labels.shape}")
    except Exception as error:
        raise ConfigError(
            f"transform {transform.name!r} of another package failed ({type(error).__name__}: {error}); repair the "
            "package, or leave it out"
        ) from error
    return changed, moved
