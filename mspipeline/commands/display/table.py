"""What all that the command line prints has in common: tables, and JSON for scripts."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rich import box
from rich.table import Table
from rich.text import Text

from mspipeline.console import stdout

LAST_WORDS = ("now", "backends", "arguments", "verdict")
"""Columns of words that stand after those of numbers."""


def print_json(document: Any) -> None:
    """Plain data on stdout, as JSON; NaN becomes null, and letters that stdout's character set lacks become escapes."""
    stdout.print(Text(json.dumps(_finite(document), allow_nan=False, default=str, indent=2, ensure_ascii=_ascii())))


def _ascii() -> bool:
    return (sys.stdout.encoding or "ascii").lower().replace("-", "") not in ("utf8", "utf8sig")


def table(columns: Sequence[str], *, words: int) -> Table:
    """A table whose first `words` columns hold words and the others numbers."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        justify: Literal["left", "right"] = "left" if number < words or column in LAST_WORDS else "right"
        shown.add_column(column, justify=justify)
    return shown


def _finite(document: Any) -> Any:
    """`document` with what is not finite as null, which JSON has."""
    if isinstance(document, Mapping):
        return {key: _finite(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [_finite(value) for value in document]
    return None if isinstance(document, float) and not math.isfinite(document) else document
