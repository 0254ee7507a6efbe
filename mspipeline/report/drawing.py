"""Matplotlib as it is shipped: what a user has set for it neither breaks nor changes a figure.

Matplotlib reads its settings when it is imported: a `matplotlibrc` in the current folder, in one that MATPLOTLIBRC
names or in the user's configuration, and MPLBACKEND. A misspelt backend or a file in another encoding ends the import.
It also wants a folder to write to, for its list of fonts.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def matplotlib_apart(scratch: Path) -> Iterator[None]:
    """Import matplotlib inside: without the user's settings, and where the machine has no temporary folder.

    scratch: holds the list of fonts, until the process ends, where neither the user's folders nor a temporary one can
    be written; it is made where it is missing. What was set for the process is put back afterwards.
    """
    if "matplotlib" in sys.modules:
        yield
        return
    found = importlib.util.find_spec("matplotlib")
    shipped = Path(found.origin or "").parent / "mpl-data" / "matplotlibrc" if found else Path()
    log = logging.getLogger("matplotlib")
    environment, level, temporary = os.environ.copy(), log.level, tempfile.tempdir
    with ExitStack() as stack:
        stack.callback(_put_back, environment, temporary)
        stack.callback(log.setLevel, level)
        log.setLevel(logging.ERROR)  # it warns of folders that it cannot write, and finds another
        os.environ.pop("MPLBACKEND", None)
        os.environ["MATPLOTLIBRC"] = str(shipped)
        if Path("matplotlibrc").exists():  # comes before all others
            stack.enter_context(chdir(Path(__file__).parent))
        try:
            tempfile.gettempdir()
        except FileNotFoundError:
            scratch.mkdir(parents=True, exist_ok=True)
            tempfile.tempdir = str(scratch.absolute())
        yield


def _put_back(environment: dict[str, str], temporary: str | None) -> None:
    for name in ("MPLBACKEND", "MATPLOTLIBRC"):
        os.environ.pop(name, None)
        if name in environment:
            os.environ[name] = environment[name]
    tempfile.tempdir = temporary


@contextmanager
def figure_style(style: dict[str, Any]) -> Iterator[None]:
    """Draw inside with matplotlib's own defaults and `style`, whatever the process has set before."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(style)
        yield
