"""The contract tests once more for each further backend, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mspipeline.backends.registry import BACKENDS, availability
from tests.contract.contract_backend import CHOSEN, VARIABLE

HERE = Path(__file__).parent
FURTHER = [] if VARIABLE in os.environ else [backend for backend in BACKENDS if backend != CHOSEN]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("backend", FURTHER)
def test_the_contract_holds_on(backend: str) -> None:
    if problem := availability(backend).problem:
        pytest.skip(problem)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=1200", str(HERE)]
    environment = {**os.environ, VARIABLE: backend}
    done = subprocess.run(command, check=False, cwd=HERE.parent.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
