"""A recipe of another package that cannot find its cases yet, nor predict them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from mspipeline.datasets.case import Case
from mspipeline.recipes.base import Recipe, Schema


class Unfinished(Recipe[Schema]):
    """All that is missing is named."""

    kind: ClassVar[str] = "unfinished"

    def files(self, case: Case) -> dict[str, Path]:
        return {}

    def train(self, run: Any) -> bool:
        return True
