"""HDF5 files are opened in one place, without locks."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.without_locks import ENOLCK, ENOTSUPP, without_locks

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for room in ("mspipeline", "jobs", "slurm") for path in (ROOT / room).rglob("*.py"))
WRITE_AND_READ = """
import sys
from pathlib import Path
import numpy as np
from mspipeline.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
path = Path(sys.argv[1])
write_checkpoint(path, Checkpoint("g", "c", {("a", "kernel"): np.ones(3, np.float32)}))
print(read_checkpoint(path).weights["a", "kernel"].sum())
"""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_h5py_is_imported_where_files_are_opened_without_locks_and_nowhere_else(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {
        alias.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    imported |= {str(node.module).partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert ("h5py" in imported) == (path == ROOT / "mspipeline/hdf5.py")


@pytest.mark.parametrize("error", [ENOLCK, ENOTSUPP])
@pytest.mark.parametrize("asked", [None, "TRUE", "BEST_EFFORT"])
def test_a_checkpoint_is_written_and_read_where_no_file_can_be_locked(
    tmp_path: Path, error: int, asked: str | None
) -> None:
    environment = {**os.environ, **without_locks(tmp_path, error)}
    if asked is not None:  # a site's module may set it; it outranks what is asked of a file
        environment["HDF5_USE_FILE_LOCKING"] = asked
    done = subprocess.run(
        [sys.executable, "-c", WRITE_AND_READ, str(tmp_path / "last.h5")],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "3.0\n"), done.stderr


def test_the_library_that_stands_in_for_such_a_file_system_refuses_locks(tmp_path: Path) -> None:
    script = "import fcntl, sys; fcntl.flock(open(sys.argv[1], 'w'), fcntl.LOCK_EX)"
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "x")],
        capture_output=True,
        text=True,
        env={**os.environ, **without_locks(tmp_path, ENOLCK)},
        check=False,
    )
    assert "No locks available" in done.stderr
