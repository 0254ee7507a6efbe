"""One thing that was looked at, how it stands, and what to do about it: a line of `mspipeline doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "missing", "warning", "broken"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at. remedy: what to do where it is not ok, else empty.

    missing: not there or not to be known from here, and work can go on. warning: it is there, and work that needs it
    has to wait or may suffer. broken: work that needs it would fail.
    """

    what: str
    state: State
    detail: str
    remedy: str = ""
