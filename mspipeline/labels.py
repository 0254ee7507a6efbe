"""Labels: what a voxel of a mask can be, and which unions of labels are scored as one.

A mask holds label numbers, uint8. A lesion mask is one of the set {background, lesion}. As plain data, in
`manifest.json` and `run.json`:

    {"labels": {"background": {"value": 0}, "anterior": {"value": 1}, "posterior": {"value": 2}},
     "regions": {"hippocampus": ["anterior", "posterior"]}}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.errors import ConfigError, ShardError, nearest

LabelMap = npt.NDArray[np.uint8]

BACKGROUND = "background"
LESION = "lesion"
MOST = 256
"""Labels that uint8 can tell apart."""


@dataclass(frozen=True)
class Region:
    """Voxels that are scored as one: those of a label, or of several that a region unites.

    numbers: theirs in a mask. count_components: whether its connected components are things to count, as lesions are.
    united: the labels of a union; () of a label.
    """

    name: str
    numbers: tuple[int, ...]
    count_components: bool
    united: tuple[str, ...] = ()

    def of(self, mask: LabelMap) -> npt.NDArray[np.bool_]:
        """Where a mask, of any shape, has it."""
        found = np.zeros(mask.shape, bool)
        for number in self.numbers:
            found |= mask == number
        return found


@dataclass(frozen=True)
class LabelSet:
    """The labels of a mask. names: a label's number in a mask is its place among them; the background is 0.

    count_components: labels whose connected components are things to count. regions: name -> the labels that it unites,
    scored beside the labels; a region's components are counted where those of all its labels are.
    Raises ConfigError where the background is not the first, a name stands twice, or there is nothing else; where a
    region unites no label or one that is not there.
    """

    names: tuple[str, ...]
    count_components: frozenset[str] = frozenset()
    regions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = self.names
        if names[:1] != (BACKGROUND,) or not 2 <= len(names) <= MOST or len(set(names)) < len(names):
            raise ConfigError(
                f"labels {', '.join(names) or '(none)'}: expected {BACKGROUND} first, then at least one label, "
                f"each named once, {MOST} at most"
            )
        for region, labels in self.regions.items():
            if region in names or not labels:
                raise ConfigError(
                    f"region {region!r}: expected a name that no label has, and at least one label that it unites; "
                    f"received: {', '.join(labels) or '(none)'}"
                )
        named = {"count_components": tuple(sorted(self.count_components)), **self.regions}
        for what, labels in named.items():
            for label in labels:
                if label not in self.foreground:
                    raise ConfigError(f"{what}: no label {label!r}; {nearest(label, list(self.foreground))}")

    @property
    def foreground(self) -> tuple[str, ...]:
        """All but the background."""
        return self.names[1:]

    @property
    def scored(self) -> tuple[Region, ...]:
        """Each label but the background, in their order, then each region."""
        labels = (Region(name, (self.number(name),), name in self.count_components) for name in self.foreground)
        regions = (
            Region(name, tuple(map(self.number, united)), self.count_components.issuperset(united), united)
            for name, united in self.regions.items()
        )
        return (*labels, *regions)

    def number(self, name: str) -> int:
        """What stands in a mask for a label."""
        return self.names.index(name)

    @property
    def words(self) -> str:
        """Each number with its name, for a line."""
        return ", ".join(f"{number} ({name})" for number, name in enumerate(self.names))

    def strange(self, masks: npt.NDArray[Any]) -> str:
        """How many voxels of masks hold which numbers that are no label's, in words; empty where none does."""
        known_voxels = masks == 0
        for number in range(1, len(self.names)):
            known_voxels |= masks == number
        if known_voxels.all():
            return ""
        values, counts = np.unique(masks[~known_voxels], return_counts=True)
        shown = ", ".join(f"{value:g}" for value in values[:5]) + (", ..." if len(values) > 5 else "")
        return f"{int(counts.sum())} mask voxels hold {shown}, expected {self.words}"

    def check(self, masks: npt.NDArray[Any], *, where: str) -> None:
        """Raise ShardError where a mask holds a number that is no label's. where: names the masks in the error."""
        if strange := self.strange(masks):
            raise ShardError(f"{where}: {strange}; delete the shards and prepare them again")

    def voxels(self, mask: LabelMap) -> dict[str, int]:
        """How many voxels of a mask each label has, the background left out."""
        counts = np.bincount(mask.ravel(), minlength=len(self.names))
        return {name: int(counts[self.number(name)]) for name in self.foreground}

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads."""
        labels: dict[str, dict[str, Any]] = {name: {"value": number} for number, name in enumerate(self.names)}
        for name in self.count_components:
            labels[name]["count_components"] = True
        regions = {name: list(united) for name, united in self.regions.items()}
        return {"labels": labels, **({"regions": regions} if regions else {})}

    @staticmethod
    def from_json(document: Any, *, where: str) -> LabelSet:
        """What `to_json` gave, or somebody wrote. where: names it in the error line.

        Raises ConfigError where a key is unknown, or numbers do not count from 0 without a gap; and as `LabelSet`.
        """
        keys = _mapping(document, ("labels", "regions"), where)
        numbers: dict[int, str] = {}
        counted = set()
        for name, given in _mapping(keys.get("labels"), None, f"{where}: labels").items():
            label = _mapping(given, ("value", "count_components"), f"{where}: label {name!r}")
            number, counts = label.get("value"), label.get("count_components", False)
            if type(number) is not int or number in numbers or not isinstance(counts, bool):
                raise ConfigError(
                    f"{where}: label {name!r}: expected a value, a whole number of its own, and perhaps "
                    f"count_components, true or false; received: {dict(label)}"
                )
            numbers[number] = name
            if counts:
                counted.add(name)
        if sorted(numbers) != list(range(len(numbers))):
            values = ", ".join(map(str, sorted(numbers)))
            raise ConfigError(f"{where}: labels have the values {values}; expected 0, 1, 2 and so on without a gap")
        regions = {}
        for name, united in _mapping(keys.get("regions", {}), None, f"{where}: regions").items():
            if not isinstance(united, list | tuple) or not all(isinstance(label, str) for label in united):
                raise ConfigError(f"{where}: region {name!r}: expected a list of labels; received: {united!r}")
            regions[name] = tuple(united)
        try:
            return LabelSet(tuple(numbers[number] for number in sorted(numbers)), frozenset(counted), regions)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error


LESIONS = LabelSet((BACKGROUND, LESION), frozenset({LESION}))
"""The labels of a lesion mask."""


def stored(labels: LabelSet) -> dict[str, Any] | None:
    """A set as manifests and run records have it: None of lesion masks, as before there were other sets."""
    return None if labels == LESIONS else labels.to_json()


def read_stored(document: Any, *, where: str) -> LabelSet:
    """The set of what `stored` gave. Raises as `LabelSet.from_json`."""
    return LESIONS if document is None else LabelSet.from_json(document, where=where)


def _mapping(document: Any, known: tuple[str, ...] | None, where: str) -> Mapping[str, Any]:
    """The document. Raises ConfigError where it is no table, or has keys that are not known."""
    if not isinstance(document, Mapping) or not all(isinstance(key, str) for key in document):
        raise ConfigError(f"{where}: expected a table of names; received: {document!r}")
    for key in document:
        if known is not None and key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}; {nearest(key, list(known))}")
    return document
