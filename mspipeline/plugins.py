"""What other packages add to the suite, by entry points: a network, a score, a backend and the like, without a fork.

A package names what it adds in its own packaging file:

    [options.entry_points]
    mspipeline.models =
        my_unet = my_package.my_unet:build

Nothing of a package is imported before what it adds is asked for. One that cannot be used is named with the reason,
where it is asked for and by `mspipeline doctor`; all others go on working.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from mspipeline.errors import ConfigError, nearest

log = logging.getLogger(__name__)

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Problem:
    """Why something that a package adds is not used. what: "model", "backend" and so on."""

    what: str
    name: str
    package: str
    reason: str

    def __str__(self) -> str:
        return f"{self.what} {self.name!r} of package {self.package}: {self.reason}"


class Registry(Mapping[str, Kind], Generic[Kind]):
    """What there is of one kind, by name: the suite's own, then what packages add, in the order of their names.

    what: the kind in error lines. group: of the entry points. built_in: the suite's own.
    accept: makes an entry of the object that an entry point names; raises ValueError saying what the object lacks.
    A name that the suite or an earlier package has is not given again.
    """

    def __init__(self, what: str, group: str, built_in: dict[str, Kind], accept: Callable[[str, Any], Kind]) -> None:
        self.what, self.group, self.built_in = what, group, built_in
        self._accept = accept
        self._loaded: dict[EntryPoint, Kind | Problem] = {}
        self._warned: set[Problem] = set()

    def __iter__(self) -> Iterator[str]:
        yield from self.built_in
        yield from self._added()

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in self.built_in or name in self._added()

    def __getitem__(self, name: str) -> Kind:
        """The entry called `name`. Raises ConfigError, with the nearest name, where there is none or it is broken."""
        if name in self.built_in:
            return self.built_in[name]
        added = self._added()
        if name not in added:
            raise ConfigError(f"unknown {self.what} {name!r}; {nearest(name, self)}")
        entry = self._load(added[name])
        if isinstance(entry, Problem):
            raise ConfigError(f"{entry}; repair the package, or uninstall it")
        return entry

    def working(self) -> dict[str, Kind]:
        """All that can be used, by name; each that cannot is logged as a warning, once."""
        loaded = {name: self._load(point) for name, point in self._added().items()}
        for entry in loaded.values():
            if isinstance(entry, Problem) and entry not in self._warned:
                self._warned.add(entry)
                log.warning("%s; it is left out", entry)
        return {**self.built_in, **{name: entry for name, entry in loaded.items() if not isinstance(entry, Problem)}}

    def problems(self) -> list[Problem]:
        """What packages add and cannot be used: it does not load, lacks something, or its name is taken."""
        added = self._added()
        found = [entry for entry in map(self._load, added.values()) if isinstance(entry, Problem)]
        for point in _points(self.group):
            if added.get(point.name) is not point:
                holder = "the suite" if point.name in self.built_in else f"package {_package(added[point.name])}"
                found.append(Problem(self.what, point.name, _package(point), f"{holder} has that name; choose another"))
        return found

    def _added(self) -> dict[str, EntryPoint]:
        added: dict[str, EntryPoint] = {}
        for point in _points(self.group):
            if point.name not in self.built_in:
                added.setdefault(point.name, point)
        return added

    def _load(self, point: EntryPoint) -> Kind | Problem:
        if point not in self._loaded:
            try:
                self._loaded[point] = self._accept(point.name, point.load())
            except (Exception, SystemExit) as error:  # whatever a stranger's module raises when it is imported
                words = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
                reason = f"{point.value} cannot be used ({words})"
                self._loaded[point] = Problem(self.what, point.name, _package(point), reason)
        return self._loaded[point]


@cache
def _points(group: str) -> tuple[EntryPoint, ...]:
    """What is installed, in an order that does not depend on the order of folders."""
    return tuple(sorted(entry_points(group=group), key=lambda point: (point.name, _package(point))))


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "unknown"


def instance_of(kind: type[Kind]) -> Callable[[str, Any], Kind]:
    """What a registry of objects accepts: those of `kind`."""

    def accept(name: str, made: Any) -> Kind:
        if not isinstance(made, kind):
            raise ValueError(f"expected a {kind.__name__} ({kind.__module__}); received: {type(made).__name__}")
        return made

    return accept


def subclass_of(base: type[Any], *, named_by: str = "name") -> Callable[[str, Any], Any]:
    """What a registry of classes accepts: a whole subclass of `base`, its attribute `named_by` its entry's name."""

    def accept(name: str, made: Any) -> Any:
        if not (inspect.isclass(made) and issubclass(made, base)):
            raise ValueError(f"expected a subclass of {base.__module__}.{base.__name__}; received: {made!r}")
        if lacking := sorted(getattr(made, "__abstractmethods__", ())):
            raise ValueError(f"it lacks {', '.join(lacking)}")
        if (own := getattr(made, named_by, None)) != name:
            raise ValueError(f"its {named_by} is {own!r}, expected the name of its entry point, {name!r}")
        return made

    return accept
