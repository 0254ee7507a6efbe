"""mspipeline.benchmarks.micro.result: what a micro benchmark prints."""

from __future__ import annotations

import json
import math

import pytest

from mspipeline.benchmarks.micro.result import Result, main


def test_a_ratio_at_its_bound_is_ok_and_one_below_or_unknown_is_not() -> None:
    assert Result("a", "b", 0.95, 0.95).ok
    assert not Result("a", "b", 0.949, 0.95).ok
    assert not Result("a", "b", math.nan, 0.95).ok


def test_json_is_one_list_with_the_agreed_keys(capsys: pytest.CaptureFixture[str]) -> None:
    main(lambda: [Result("loop", "bare loop", 0.5, 0.95, "2 s and 1 s"), Result("x", "y", math.nan, 1)], "", ["--json"])
    assert json.loads(capsys.readouterr().out) == [
        {"name": "loop", "peer": "bare loop", "ratio": 0.5, "bound": 0.95, "ok": False, "detail": "2 s and 1 s"},
        {"name": "x", "peer": "y", "ratio": None, "bound": 1, "ok": False, "detail": ""},
    ]


def test_a_line_says_verdict_ratio_and_bound(capsys: pytest.CaptureFixture[str]) -> None:
    main(lambda: [Result("loop", "bare loop", 1.0, 0.95, "1 s and 1 s")], "", [])
    assert capsys.readouterr().out == "ok     loop: 1.000 of bare loop, at least 0.950 (1 s and 1 s)\n"
