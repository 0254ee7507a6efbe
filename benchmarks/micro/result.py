"""Result of one micro benchmark, and the one way all of them print it."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Result:
    """One measured ratio against a peer or a physical limit.

    name: what was measured. peer: what it was measured against. ratio: more is better.
    bound: the least ratio that is fine. detail: the numbers behind the ratio, with units, in one phrase.
    """

    name: str
    peer: str
    ratio: float
    bound: float
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether the ratio reaches its bound. NaN does not."""
        return self.ratio >= self.bound

    def to_json(self) -> dict[str, object]:
        """Plain data: name, peer, ratio, bound, ok, detail. A ratio that is not finite is null."""
        document = asdict(self) | {"ratio": self.ratio if math.isfinite(self.ratio) else None}
        detail = document.pop("detail")
        return document | {"ok": self.ok, "detail": detail}

    def line(self) -> str:
        """One readable line."""
        verdict = "ok" if self.ok else "MISSED"
        return f"{verdict:6} {self.name}: {self.ratio:.3f} of {self.peer}, at least {self.bound:.3f} ({self.detail})"


def main(measure: Callable[[], list[Result]], description: str, arguments: Sequence[str] | None = None) -> None:
    """Measure and print: readable lines, or with --json one list. A missed bound is a result, not a failure.

    arguments: those of the command line where None.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of lines")
    as_json = parser.parse_args(arguments).json
    results = measure()
    if as_json:
        print(json.dumps([result.to_json() for result in results], allow_nan=False))
        return
    for result in results:
        print(result.line())
