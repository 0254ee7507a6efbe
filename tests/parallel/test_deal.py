"""Which task is given out when, and what that makes of a run."""

from __future__ import annotations

import math

import pytest

from mspipeline.parallel.deal import Deal, estimated_cost, simulate, skew


def given_out(deal: Deal) -> list[int]:
    places = []
    while (place := deal.next()) is not None:
        places.append(place)
    return places


def test_one_rank_takes_the_tasks_as_they_are_listed_and_several_the_dearest_first() -> None:
    assert given_out(Deal([1, 5, 3, 5], ranks=1)) == [0, 1, 2, 3]
    assert given_out(Deal([1, 5, 3, 5], ranks=2)) == [1, 3, 2, 0]


def test_nothing_is_given_out_after_a_stop() -> None:
    deal = Deal([1, 2, 3], ranks=2)
    assert deal.next() == 2
    deal.stop()
    assert deal.next() is None


def test_a_larger_case_is_dearer_by_its_bytes_and_by_its_voxels() -> None:
    assert estimated_cost(10**6, 10**6) < estimated_cost(2 * 10**6, 10**6) < estimated_cost(2 * 10**6, 2 * 10**6)


def test_one_large_case_does_not_hold_up_the_rest() -> None:
    # One case of 6 s and six of 1 s: the large one first, the others beside it, all done after 6 s.
    seconds = [1.0] * 6 + [6.0]
    assert simulate(seconds, seconds, ranks=2).wall_s == 6
    assert simulate(seconds, seconds, ranks=2).busy_s == (6, 6)
    # Given out as listed, it would begin after 3 s.
    assert simulate(seconds, [1.0] * 7, ranks=2).wall_s == 9


def test_a_simulation_of_one_rank_is_the_sum_and_of_many_the_largest_case() -> None:
    seconds = [0.5, 2.0, 1.0]
    assert simulate(seconds, seconds, ranks=1).wall_s == 3.5
    many = simulate(seconds, seconds, ranks=100)
    assert many.wall_s == 2
    assert sorted(many.busy_s, reverse=True)[:4] == [2, 1, 0.5, 0]


def test_requests_wait_for_each_other_at_rank_0() -> None:
    # Four ranks ask at once; rank 0 takes 0.1 s for each, so the last one begins at 0.4 s.
    assert simulate([1.0] * 4, [1.0] * 4, ranks=4, handing_s=0.1).wall_s == pytest.approx(1.4)


def test_skew_is_the_busiest_over_the_mean() -> None:
    assert skew([2, 2, 2]) == 1
    assert skew([4, 2, 0]) == 2
    assert math.isnan(skew([0, 0]))
