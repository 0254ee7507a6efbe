"""Imports run downwards only."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FLOORS = {
    0: ["mspipeline.arrays", "mspipeline.errors", "mspipeline.plugins", "mspipeline.startup"],
    1: [
        "mspipeline.labels",
        "mspipeline.losses",
        "mspipeline.metrics",
        "mspipeline.optimizers",
        "mspipeline.tables",
        "mspipeline.telemetry",
    ],
    2: [
        "mspipeline.network",
        "mspipeline.parallel",
        "mspipeline.config",
        "mspipeline.files",
        "mspipeline.hdf5",
        "mspipeline.images",
        "mspipeline.grid",
        "mspipeline.volume",
        "mspipeline.runs",
    ],
    3: [
        "mspipeline.channels",
        "mspipeline.models",
        "mspipeline.datasets",
        "mspipeline.interchange",
        "mspipeline.preprocess",
        "mspipeline.patches",
        "mspipeline.provenance",
        "mspipeline.transforms",
    ],
    4: ["mspipeline.backends", "mspipeline.shards", "mspipeline.collect"],
    5: [
        "mspipeline.dense",
        "mspipeline.training",
        "mspipeline.recipes",
        "mspipeline.interchange.runs",
        "mspipeline.report",
    ],
    6: ["mspipeline.jobs", "mspipeline.console"],
    7: ["mspipeline.campaigns", "mspipeline.containers"],
    8: [
        "mspipeline.slurm",
        "mspipeline.cli",
        "mspipeline.__main__",
        "mspipeline.commands",
        "mspipeline.doctor",
        "mspipeline.benchmarks",
    ],
}
SIDEWAYS = {
    # Within a floor, only these rooms use each other, in this direction.
    ("mspipeline.config", "mspipeline.files"),
    ("mspipeline.startup", "mspipeline.errors"),
    ("mspipeline.plugins", "mspipeline.errors"),
    ("mspipeline.volume", "mspipeline.files"),
    ("mspipeline.volume", "mspipeline.images"),
    ("mspipeline.volume", "mspipeline.grid"),
    ("mspipeline.images", "mspipeline.grid"),
    ("mspipeline.images", "mspipeline.files"),
    ("mspipeline.runs", "mspipeline.files"),
    ("mspipeline.runs", "mspipeline.config"),
    ("mspipeline.network", "mspipeline.files"),
    ("mspipeline.tables", "mspipeline.labels"),
    ("mspipeline.tables", "mspipeline.metrics"),
    ("mspipeline.tables", "mspipeline.telemetry"),
    ("mspipeline.interchange.runs", "mspipeline.training"),
    ("mspipeline.interchange.runs", "mspipeline.recipes"),
    ("mspipeline.recipes", "mspipeline.training"),
    ("mspipeline.recipes", "mspipeline.dense"),
    ("mspipeline.__main__", "mspipeline.cli"),
    ("mspipeline.cli", "mspipeline.commands"),
    ("mspipeline.commands", "mspipeline.doctor"),
    ("mspipeline.jobs", "mspipeline.console"),
    ("mspipeline.benchmarks", "mspipeline.slurm"),
    ("mspipeline.containers", "mspipeline.campaigns"),
}
FRAMEWORKS = {"tensorflow", "keras", "torch", "jax", "pyeddl", "onnxruntime"}
MODULES = sorted(
    path for room in ("mspipeline", "jobs", "slurm", "benchmarks", "containers") for path in (ROOT / room).rglob("*.py")
)


def room_of(module: str) -> tuple[str, int] | None:
    """The room a module belongs to, the innermost that has a floor, and that floor."""
    found = [
        (room, floor)
        for floor, rooms in FLOORS.items()
        for room in rooms
        if module == room or module.startswith(f"{room}.")
    ]
    return max(found, key=lambda each: len(each[0]), default=None)


def name_of(path: Path) -> str:
    """Name by which a module is imported, `mspipeline.files`; a package's own is `mspipeline.slurm.__init__`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "mspipeline" else ("mspipeline", *parts))


NAMES = {name_of(path) for path in MODULES}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path) -> tuple[str, ...]:
    found: list[str] = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = str(node.module)
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                is_module = inner in NAMES or f"{inner}.__init__" in NAMES or module == "mspipeline"
                found.append(inner if is_module else module)
    return tuple(found)


def _as_rooms(module: str) -> list[str]:
    """The parts of a module's name; a package on a floor of its own counts as one that stands beside its parent."""
    room = (room_of(module) or ("", 0))[0]
    parts = module.split(".")
    outside = room.count(".")
    return ["mspipeline", ".".join(parts[1 : outside + 1]), *parts[outside + 1 :]] if outside > 1 else parts


def levels() -> dict[str, dict[str, set[str]]]:
    """For each package, which of its parts (modules and packages in it) imports which others."""
    found: dict[str, dict[str, set[str]]] = {}
    for path in MODULES:
        own = _as_rooms(name_of(path))
        for name in imports(path):
            used = f"{name}.__init__" if f"{name}.__init__" in NAMES else name
            if used not in NAMES:
                continue
            parts = _as_rooms(used)
            shared = next(n for n, pair in enumerate(zip([*own, ""], [*parts, ""], strict=False)) if pair[0] != pair[1])
            if own != parts:
                found.setdefault(".".join(own[:shared]), {}).setdefault(own[shared], set()).add(parts[shared])
    return found


LEVELS = levels()


@pytest.mark.parametrize("package", sorted(LEVELS))
def test_no_parts_of_a_package_import_each_other_in_a_circle(package: str) -> None:
    try:
        TopologicalSorter(LEVELS[package]).prepare()
    except CycleError as error:
        pytest.fail(f"{package}: a circle of imports: {' <- '.join(error.args[1])}")


def test_a_circle_would_be_found() -> None:
    slurm = LEVELS["mspipeline.slurm"]
    assert slurm["checks"] >= {"on_node"}
    with pytest.raises(CycleError):
        TopologicalSorter({**slurm, "on_node": {*slurm["on_node"], "checks"}}).prepare()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downwards(path: Path) -> None:
    module = name_of(path).removesuffix(".__init__")
    if module == "mspipeline":
        assert set(imports(path)) <= {"__future__"}
        return
    own = room_of(module)
    assert own is not None, f"{module} is in no room: add it to FLOORS and to CONTRIBUTING.md"
    for name in imports(path):
        other = room_of(name)
        if other is None or other[0] == own[0]:
            continue
        assert other[1] < own[1] or (own[0], other[0]) in SIDEWAYS, f"{module} imports {name}, which is not below it"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_scheduler_is_asked_for_by_name(path: Path) -> None:
    """Which scheduler a site has decides `campaigns/schedulers.py` alone: nothing else compares it."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Compare):
            compared = [node.left, *node.comparators]
            names = {each.attr if isinstance(each, ast.Attribute) else getattr(each, "id", "") for each in compared}
            words = {each.value for each in compared if isinstance(each, ast.Constant)}
            where = f"{path}:{node.lineno}"
            assert not ("executor" in names and words), f"{where}: a branch on the executor; give Scheduler a method"
            assert not words & {"slurm", "local"}, f"{where}: a branch on a scheduler's name; give Scheduler a method"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_frameworks_stay_in_their_adapters(path: Path) -> None:
    used = {name.partition(".")[0] for name in imports(path)} & FRAMEWORKS
    benchmark = path.is_relative_to(ROOT / "benchmarks")  # peers are what benchmarks measure against
    assert not used or path.is_relative_to(ROOT / "mspipeline" / "backends") or benchmark, f"{path} imports {used}"


def test_every_room_says_what_it_holds() -> None:
    for path in MODULES:
        if path.name == "__init__.py":
            words = ast.get_docstring(parsed(path)) or ""
            assert len(words) > 40, f"{path}: says too little of the room"


TOP = {"benchmarks", "benchmarks.micro", "commands", "commands.display", "jobs", "jobs.work"}  # all that lies below
DISTRIBUTIONS = {"cc3d": "connected-components-3d", "torch": "pytorch"}  # imported name -> the one that people know


@cache
def rooms() -> dict[str, list[Path]]:
    """Each package below `mspipeline` that states what it may import, and its own modules."""
    found: dict[str, list[Path]] = {}
    for path in MODULES:
        parts = path.parent.relative_to(ROOT).parts
        name = ".".join(parts[1:] if parts[0] == "mspipeline" else parts)
        if name and name not in TOP:
            found.setdefault(name, []).append(path)
    return found


def imported(room: str, paths: list[Path]) -> tuple[set[str], set[str]]:
    """What the modules of a room import: other distributions, and modules of the suite outside the room."""
    others, suite = set(), set()
    for name in {name for path in paths for name in imports(path)}:
        top, _, inside = name.partition(".")
        if top != "mspipeline":
            if top not in sys.stdlib_module_names:
                others.add(DISTRIBUTIONS.get(top, top))
        elif inside and inside != "__version__" and inside != room and not inside.startswith(f"{room}."):
            suite.add(inside)
    return others, suite


@pytest.mark.parametrize("room", rooms())
def test_a_room_imports_what_it_says_that_it_may_and_nothing_else(room: str) -> None:
    paths = rooms()[room]
    (package,) = [path for path in paths if path.name == "__init__.py"]
    words = ast.get_docstring(parsed(package)) or ""
    sentence = re.search(r"May import: (.+?)\.(?:\s|$)", words, re.DOTALL)
    assert sentence, f"{package}: add a sentence `May import: NumPy; ``errors``.`"
    stated = set(re.findall(r"`([\w.]+)`", sentence[1]))
    named = {name.strip().lower() for name in re.split("[,;]", re.sub(r"`[\w.]+`", "", sentence[1])) if name.strip()}
    others, suite = imported(room, paths)
    assert named == others, f"{package}: says that it may import {sorted(named)}, and imports {sorted(others)}"
    covered = {name: [each for each in stated if name == each or name.startswith(f"{each}.")] for name in suite}
    unsaid = sorted(name for name, found in covered.items() if not found)
    assert not unsaid, f"{package}: does not say that it may import {unsaid}"
    unused = sorted(stated - {each for found in covered.values() for each in found})
    assert not unused, f"{package}: says that it may import {unused}, which it does not"
