"""One backend a process: what is for another than `contract_backend.CHOSEN` is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from mspipeline.backends.registry import BACKENDS, adapter, availability
from tests.contract.contract_backend import CHOSEN


@pytest.fixture(params=BACKENDS)
def name(request: pytest.FixtureRequest) -> str:
    """The backend under test."""
    if problem := availability(request.param).problem:
        pytest.skip(problem)
    if not adapter(request.param).can_train:
        pytest.skip(f"{request.param} predicts only; see tests/backends")
    return str(request.param)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests of this folder whose `name` is another backend than this process's."""
    others = [item for item in items if _backend(item) not in (None, CHOSEN)]
    if others:
        items[:] = [item for item in items if _backend(item) in (None, CHOSEN)]
        config.hook.pytest_deselected(items=others)


def _backend(item: pytest.Item) -> str | None:
    """The backend that a test of this folder is for; None where it is for none, or elsewhere."""
    here = item.path.is_relative_to(Path(__file__).parent)
    parameters = item.callspec.params if here and hasattr(item, "callspec") else {}
    named = parameters.get("name")
    return named if named in BACKENDS else None
