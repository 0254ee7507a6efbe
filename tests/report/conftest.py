from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.report.report_rows import Rows, write_campaign, write_tables


@pytest.fixture
def tables_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows as a folder of tables."""

    def write(**rows: Rows) -> Path:
        return write_tables(tmp_path / "tables", **rows)

    return write


@pytest.fixture(scope="session")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 groups x 2 seeds x 12 epochs with samples, a failed and a running run. Tests leave it as it is."""
    return write_campaign(tmp_path_factory.mktemp("campaign"))
