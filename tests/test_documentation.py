"""What the documentation says is so."""

from __future__ import annotations

import doctest
import itertools
import re
from importlib import import_module
from pathlib import Path

import pytest
import typer.main

from mspipeline import runs
from mspipeline.commands import app
from mspipeline.runs import RunPaths, TelemetryPaths

ROOT = Path(__file__).parent.parent
ROOMS = {"mspipeline": "mspipeline", **{room: f"mspipeline.{room}" for room in ("jobs", "slurm", "containers")}}
"""The folder of each package, and its name."""
WITH_EXAMPLES = sorted(
    ".".join([package, *path.relative_to(ROOT / folder).with_suffix("").parts]).removesuffix(".__init__")
    for folder, package in ROOMS.items()
    for path in (ROOT / folder).rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_the_examples_in_the_docstrings_hold(module: str) -> None:
    found = doctest.testmod(import_module(module))
    assert found.attempted > 0
    assert found.failed == 0


def test_every_command_is_in_the_guide_and_the_guide_names_no_other() -> None:
    commands = set(typer.main.get_command(app).list_commands(None))  # type: ignore[attr-defined]
    guide = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    assert commands == set(re.findall(r"(?:^ {4}|`)mspipeline ([a-z][a-z-]*)", guide, re.MULTILINE))


def test_every_command_that_the_readme_shows_is_there() -> None:
    commands = set(typer.main.get_command(app).list_commands(None))  # type: ignore[attr-defined]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"(?:^ {4}|`)mspipeline ([a-z][a-z-]*)", readme, re.MULTILINE))
    assert "train" in shown
    assert shown <= commands


def test_every_makefile_target_that_the_documents_name_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for name in ("README.md", "CONTRIBUTING.md", "docs/guide.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert set(re.findall(r"(?:^ {4}|`)make ([a-z-]+)", text, re.MULTILINE)) <= targets, name


def test_every_file_and_folder_that_the_documents_link_to_is_there() -> None:
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path}: {target}"


def test_the_files_of_a_run_folder_are_those_that_its_module_lists() -> None:
    _, _, tree = (runs.__doc__ or "").partition("RUN/\n")
    listed = set()
    for line in tree.strip("\n").splitlines():
        left, _, right = line.strip().partition("    ")
        listed |= {each for name in left.split() for each in expanded(name)}
        folder = left if left.endswith("/") else ""
        listed |= {each for name in re.findall(r"checkpoints/\S+", right) for each in expanded(name)}
        if folder:
            listed.discard(folder)
            listed |= {f"{folder}{name.strip()}" for name in right.split(",")}
    paths = RunPaths(Path("RUN"))
    attempt = TelemetryPaths(paths.telemetry / "<job>-0")
    attempt_files = [attempt.samples, attempt.events, attempt.exit, attempt.config]
    rows = [paths.epochs, paths.cases, paths.lesions]
    stage = [paths.stage(1, "best"), paths.stage(1, "last"), paths.scores(1)]
    expected = [
        paths.record,
        paths.graph,
        paths.best,
        paths.last,
        *stage,
        *rows,
        *(path.with_suffix(".csv") for path in rows),
    ]
    names = {str(path.relative_to("RUN")).replace("stage1", "stage<N>") for path in expected}
    names |= {str(path.relative_to("RUN")).replace("<job>-0", "<job>-<attempt>") for path in attempt_files}
    names |= {str(path.relative_to("RUN")) for path in (paths.job_config("<job>"), paths.lock("<job>"))}
    assert listed == names


def expanded(name: str) -> set[str]:
    """`a/{b,c}.h5` as `a/b.h5` and `a/c.h5`."""
    parts = re.split(r"\{([^}]*)\}", name.strip().rstrip(";,"))
    choices = [part.split(",") if number % 2 else [part] for number, part in enumerate(parts)]
    return {"".join(each) for each in itertools.product(*choices)}


def test_each_decision_has_a_number_of_its_own() -> None:
    numbers = [path.name[:4] for path in sorted((ROOT / "docs" / "decisions").glob("*.md"))]
    assert numbers == [f"{number:04d}" for number in range(1, len(numbers) + 1)]
