from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mspipeline.collect.merge import phase_seconds, phases_at
from mspipeline.telemetry.schema import EVENTS

Mark = tuple[int, str, str, int | None]


def events(*marks: Mark) -> pa.Table:
    names = ("monotonic_ns", "kind", "phase", "epoch")
    return pa.Table.from_pylist([dict(zip(names, mark, strict=True)) for mark in marks], schema=EVENTS)


def at(times: list[int], *marks: Mark) -> list[tuple[str | None, int | None]]:
    phases, epochs = phases_at(np.array(times, np.int64), events(*marks))
    assert (phases.type, epochs.type) == (EVENTS.field("phase").type, pa.int32())
    return list(zip(phases.to_pylist(), epochs.to_pylist(), strict=True))


NOTHING = (None, None)


def test_each_time_has_the_phase_it_lies_in_and_none_outside() -> None:
    marks: list[Mark] = [(10, "begin", "setup", None), (20, "end", "setup", None), (30, "begin", "train", 1)]
    assert at([5, 10, 15, 20, 25, 30, 99], *marks) == [
        NOTHING,
        ("setup", None),
        ("setup", None),
        NOTHING,
        NOTHING,
        ("train", 1),
        ("train", 1),  # never ended: the job was killed in it
    ]


def test_the_innermost_phase_counts_and_takes_over_the_epoch_around_it() -> None:
    marks: list[Mark] = [
        (10, "begin", "train", 3),
        (20, "begin", "checkpoint", None),
        (30, "end", "checkpoint", None),
        (40, "begin", "validation", 4),
        (50, "end", "validation", 4),
        (60, "end", "train", 3),
    ]
    assert at([15, 25, 35, 45, 55, 65], *marks) == [
        ("train", 3),
        ("checkpoint", 3),
        ("train", 3),
        ("validation", 4),
        ("train", 3),
        NOTHING,
    ]


def test_a_phase_nested_in_one_of_its_name_ends_the_inner_one() -> None:
    marks: list[Mark] = [(1, "begin", "train", 1), (2, "begin", "train", 2), (3, "end", "train", 2)]
    assert at([2, 3], *marks) == [("train", 2), ("train", 1)]


def test_an_end_without_a_beginning_is_ignored() -> None:
    assert at([1, 3, 5], (2, "end", "train", 1), (4, "begin", "setup", None)) == [NOTHING, NOTHING, ("setup", None)]


def test_ending_the_outer_phase_ends_what_was_open_inside() -> None:
    marks: list[Mark] = [(1, "begin", "train", 1), (2, "begin", "checkpoint", None), (3, "end", "train", 1)]
    assert at([2, 3], *marks) == [("checkpoint", 1), NOTHING]


def test_without_events_nothing_is_known() -> None:
    assert at([1, 2]) == [NOTHING, NOTHING]


def test_without_samples_there_is_nothing_to_say() -> None:
    assert at([], (1, "begin", "train", 1)) == []


@given(
    st.lists(st.tuples(st.sampled_from(["begin", "end"]), st.sampled_from(["train", "validation", "checkpoint"]))),
    st.lists(st.integers(0, 300), max_size=20),
)
def test_it_agrees_with_walking_a_stack_for_each_sample(steps: list[tuple[str, str]], times: list[int]) -> None:
    marks: list[Mark] = [(10 * index, kind, phase, index) for index, (kind, phase) in enumerate(steps)]
    expected = []
    for time in times:
        stack: list[tuple[str, int]] = []
        for mark_time, kind, phase, epoch in marks:
            if mark_time <= time and kind == "begin":
                stack.append((phase, int(epoch or 0)))
            elif mark_time <= time and phase in [name for name, _ in stack]:
                while stack.pop()[0] != phase:
                    pass
        expected.append(stack[-1] if stack else NOTHING)
    assert at(times, *marks) == expected


def test_seconds_of_a_phase_are_summed_and_unknown_where_it_never_ended() -> None:
    marks: list[Mark] = [
        (1_000_000_000, "begin", "evaluate", None),
        (3_500_000_000, "end", "evaluate", None),
        (4_000_000_000, "begin", "evaluate", None),
        (5_000_000_000, "end", "evaluate", None),
    ]
    assert phase_seconds(events(*marks), "evaluate") == pytest.approx(3.5)
    assert phase_seconds(events(*marks[:1]), "evaluate") is None
    assert phase_seconds(events(*marks[1:2]), "evaluate") is None
    assert phase_seconds(events(*marks), "train") is None
