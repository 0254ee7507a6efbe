"""Packages of other people that add to the suite, installed as an installer leaves them: modules and metadata."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mspipeline import plugins

EXAMPLES = Path(__file__).parent / "plugins"


def install(folder: Path, name: str, entry_points: str, *examples: str) -> None:
    """Install a package. entry_points: text of its `entry_points.txt`. examples: its modules, of `tests/plugins/`."""
    metadata = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(entry_points)
    for example in examples:
        (folder / f"{example}.py").write_text((EXAMPLES / f"{example}.py").read_text())


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """What is installed in the folder is installed for this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        plugins._points.cache_clear()
        yield
    plugins._points.cache_clear()
