"""mspipeline.commands.display.campaigns: which cells are shown, and the line on the whole."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from mspipeline.campaigns.cell_state import CellState
from mspipeline.commands.display.campaigns import (
    LiveStates,
    campaign_eta_s,
    line_of,
    print_states,
    screen,
    summary,
    word_of,
)


def cell(name: str, state: Any = "pending", message: str = "", **values: Any) -> CellState:
    return CellState(name, state, message=message, epochs=10, **values)


def shown(states: list[CellState], lines: int, columns: int = 140) -> list[str]:
    """What a terminal of this size shows."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=columns, height=lines, color_system=None)
    console.print(screen(states, (), console))
    return [line.rstrip() for line in written.getvalue().splitlines()]


def test_a_cell_whose_job_is_in_the_queue_waits() -> None:
    messages = ("starting", "waiting to continue; BeginTime", "waiting for the preparation", "training", "evaluating")
    assert [word_of(cell("a", "running", message)) for message in messages] == ["waiting"] * 3 + ["running"] * 2
    assert word_of(cell("a", "failed", "starting")) == "failed"


def test_the_summary_counts_and_tells_the_time_left() -> None:
    states = [
        cell("a", "running", "training", epoch=5, train_s=100.0, eta_s=100.0),  # 20 s an epoch
        cell("b", "running", "training", epoch=5, train_s=50.0, eta_s=50.0),  # 10 s an epoch
        cell("c", "running", "starting"),
        cell("d"),
        cell("e", "done", epoch=10, train_s=150.0),
        cell("f", "failed"),
    ]
    # 300 s for 20 epochs: 15 s an epoch, 150 s for c and for d each; 450 s in all, two at a time.
    assert campaign_eta_s(states) == 225.0
    assert summary(states) == "6 cells: 1 failed, 2 running, 1 waiting, 1 pending, 1 done; about 3.8 min left"


def test_the_time_left_is_at_least_that_of_the_slowest_and_unknown_where_nothing_tells() -> None:
    running = [
        cell("a", "running", "training", epoch=5, train_s=100.0, eta_s=100.0),
        cell("b", "running", "training", epoch=5, train_s=4.0, eta_s=4.0),
    ]
    assert campaign_eta_s(running) == 100.0
    assert campaign_eta_s([cell("a", "running", "training"), cell("b")]) is None
    assert campaign_eta_s([cell("a", "done", epoch=10, train_s=1.0), cell("b")]) is None


def test_a_table_fits_the_terminal_and_those_that_need_somebody_come_first() -> None:
    states = [cell(f"d{number}", "done") for number in range(10_000)]
    states[9_000] = cell("bad", "failed", "code 1", node="c1", restarts=2)
    states[5_000] = cell("busy", "running", "training", epoch=3)
    lines = shown(states, lines=24)
    assert len(lines) < 24
    rows = [line.split() for line in lines if line.lstrip().startswith(("d", "b"))]
    assert rows[0] == ["bad", "failed", "c1", "0/10", "-", "-", "-", "2", "code", "1"]
    assert rows[1][:4] == ["busy", "running", "-", "3/10"]
    assert "and 9985 done; `--state NAME` shows those of one state" in lines
    assert lines[-1] == "10000 cells: 1 failed, 1 running, 9998 done"


def test_a_pipe_gets_every_cell_and_a_state_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    states = [cell(f"d{number}", "done") for number in range(200)] + [cell("bad", "failed", "code 1")]
    print_states(states)
    assert capsys.readouterr().out.count(" done ") == 200
    print_states(states, ["failed"])
    said = capsys.readouterr().out
    assert (said.count(" done "), said.count("code 1")) == (0, 1)
    assert said.endswith("201 cells: 1 failed, 200 done\n")


def test_a_narrow_terminal_cuts_names_and_keeps_numbers() -> None:
    state = cell("a_network_with_a_long_name-tensorflow-s0", "interrupted", "x " * 40, epoch=3, train_dice=0.5)
    (row,) = [line for line in shown([state], lines=24, columns=80)[:-1] if "interrupted" in line]
    assert len(row) <= 80
    assert row.split()[1:] == ["interrupted", "-", "3/10", "0.500", "-", "-", "0"]


def test_a_training_that_collapses_is_told_once_and_named_in_its_row() -> None:
    written = io.StringIO()
    words = "collapsed: predicts nothing since epoch 4"
    live = LiveStates(Console(file=written, width=300, soft_wrap=True, highlight=False))
    with live:
        for warning in ("", words, words, "", words):
            live([cell("a", "running", "training", epoch=6, warning=warning)])
    assert [line for line in written.getvalue().splitlines() if "warning" in line] == [f"warning: a: {words}"] * 2
    lines = shown([cell("a", "running", "training", warning=words)], lines=24, columns=160)
    assert any(words in line for line in lines), lines
    assert line_of(cell("a", "done", "", warning=words)).endswith(f"; {words}")


def test_without_a_terminal_a_cell_has_a_line_for_each_change_of_its_state_and_none_for_an_epoch() -> None:
    written = io.StringIO()
    live = LiveStates(Console(file=written, width=300, soft_wrap=True, highlight=False))
    story: list[dict[str, Any]] = [
        {},
        {"state": "running", "message": "starting"},
        {"state": "running", "message": "training", "node": "c1"},
        *({"state": "running", "message": "training", "node": "c1", "epoch": epoch} for epoch in (1, 2, 3)),
        {"state": "running", "message": "waiting to continue", "node": "c1", "epoch": 3},
        {"state": "running", "message": "evaluating", "node": "c2", "epoch": 10, "train_dice": 0.75},
        {"state": "done", "node": "c2", "epoch": 10, "train_dice": 0.75, "validation_dice": 0.5},
    ]
    with live:
        for number, now in enumerate(story):
            ended = cell("b", "failed", "code 65: error:\nno scans") if number > 4 else cell("b")
            live([cell("a", **now), ended])
    assert written.getvalue().splitlines() == [
        "a: waiting, epoch 0/10, Dice - train, - validation",
        "a: running on c1, epoch 0/10, Dice - train, - validation",
        "b: failed, epoch 0/10, Dice - train, - validation; code 65: error: no scans",
        "a: waiting, epoch 3/10, Dice - train, - validation",
        "a: running on c2, epoch 10/10, Dice 0.750 train, - validation",
        "a: done, epoch 10/10, Dice 0.750 train, 0.500 validation",
    ]
