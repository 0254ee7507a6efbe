"""The page under what a user's account may hold for matplotlib: each in a process of its own, which imports it anew."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.report.report_rows import case_row, epoch_row, run_row, write_tables

WRITE = """
import pathlib, sys
from mspipeline.report.page import write_page
write_page(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), "title")
"""
# As on a machine where neither TMPDIR, /tmp, /var/tmp nor the current folder can be written.
NO_TEMPORARY_FOLDER = """
import tempfile
tempfile._candidate_tempdir_list = lambda: []
"""


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    epochs = [epoch_row("a", number, "train", dice=number / 10, loss=1 / number) for number in (1, 2, 3)]
    folder = tmp_path_factory.mktemp("tables")
    return write_tables(folder, runs=[run_row("a")], epochs=epochs, cases=[case_row("a", "sub-01", "test")])


def page(tables: Path, folder: Path, environment: dict[str, str | None] | None = None, *, script: str = WRITE) -> bytes:
    """The page, written from `folder` with the environment changed; None takes a variable out."""
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / "out" / "page.html"
    changed = {name: value for name, value in {**os.environ, **(environment or {})}.items() if value is not None}
    command = [sys.executable, "-c", script, str(tables), str(output)]
    ended = subprocess.run(command, cwd=folder, env=changed, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert os.listdir(folder / "out") == ["page.html"]
    return output.read_bytes()


@pytest.fixture(scope="module")
def plain(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return page(tables, tmp_path_factory.mktemp("plain"))


SETTINGS = b"text.usetex: True\nlines.linewidth: 9\naxes.facecolor: black\nsvg.fonttype: path\nno.such.key: 1\n"


@pytest.mark.parametrize("settings", [SETTINGS, b"\xff\xfe no text at all"])
def test_a_matplotlibrc_in_the_current_folder_neither_breaks_nor_changes_the_page(
    tables: Path, plain: bytes, tmp_path: Path, settings: bytes
) -> None:
    (tmp_path / "matplotlibrc").write_bytes(settings)
    assert page(tables, tmp_path) == plain


def test_a_users_matplotlibrc_elsewhere_neither_breaks_nor_changes_the_page(
    tables: Path, plain: bytes, tmp_path: Path
) -> None:
    home = tmp_path / "home" / ".config" / "matplotlib"
    home.mkdir(parents=True)
    (home / "matplotlibrc").write_bytes(SETTINGS)
    assert page(tables, tmp_path / "work", {"HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": None}) == plain
    assert page(tables, tmp_path / "named", {"MATPLOTLIBRC": str(home / "matplotlibrc")}) == plain


@pytest.mark.parametrize(
    "environment",
    [
        {"MPLBACKEND": "nonsense", "MPLCONFIGDIR": "/proc/not/writable"},
        {"HOME": None, "XDG_CONFIG_HOME": None, "XDG_CACHE_HOME": None},
    ],
)
def test_a_users_environment_neither_breaks_nor_changes_the_page(
    tables: Path, plain: bytes, tmp_path: Path, environment: dict[str, str | None]
) -> None:
    assert page(tables, tmp_path, environment) == plain


def test_without_any_temporary_folder_the_page_is_written_and_nothing_beside_it(
    tables: Path, plain: bytes, tmp_path: Path
) -> None:
    unset = dict.fromkeys(("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR"))
    nowhere = {"HOME": "/proc/nobody", **unset}
    assert page(tables, tmp_path, nowhere, script=NO_TEMPORARY_FOLDER + WRITE) == plain


def test_what_was_set_for_the_process_is_put_back(tables: Path, plain: bytes, tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 9\n")
    check = """
import os, tempfile
before = os.getcwd(), os.environ.copy(), tempfile.tempdir
"""
    after = """
assert (os.getcwd(), os.environ.copy()) == before[:2]
assert tempfile.tempdir in (before[2], tempfile.gettempdir())
"""
    assert page(tables, tmp_path, {"MPLBACKEND": "agg"}, script=check + WRITE + after) == plain


def test_settings_made_within_the_process_do_not_change_the_page(tables: Path, plain: bytes, tmp_path: Path) -> None:
    before = "import matplotlib\nmatplotlib.rcParams.update({'lines.linewidth': 9, 'text.usetex': True})\n"
    after = "\nassert matplotlib.rcParams['lines.linewidth'] == 9\n"
    assert page(tables, tmp_path, script=before + WRITE + after) == plain
