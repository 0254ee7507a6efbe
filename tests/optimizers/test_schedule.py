from itertools import pairwise
from typing import Any

import pytest

from mspipeline.errors import ConfigError
from mspipeline.optimizers import SCHEDULES, make_schedule
from mspipeline.optimizers import learning_rate as rate_of


def learning_rate(rate: float, step: int, steps: int, *, schedule: str = "constant", **options: Any) -> float:
    return rate_of(rate, step, steps, schedule=make_schedule(schedule, {}), **options)


def test_the_rate_grows_in_equal_parts_and_then_stays() -> None:
    rates = [learning_rate(0.3, step, 9, warmup_steps=3) for step in range(5)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.3, 0.3])


@pytest.mark.parametrize("steps", [0, 1])
def test_without_warm_up_every_step_has_the_very_rate(steps: int) -> None:
    assert [learning_rate(0.1, step, 9, warmup_steps=steps) for step in range(3)] == [0.1, 0.1, 0.1]


def test_after_the_warm_up_the_rate_is_the_one_given_to_the_last_bit() -> None:
    assert all(learning_rate(0.1, step, 30, warmup_steps=7) == 0.1 for step in range(6, 20))


def test_a_cosine_falls_slowly_then_fast_then_slowly() -> None:
    """By hand: cos of 0, 45, 90 and 135 degrees."""
    rates = [learning_rate(2.0, step, 4, schedule="cosine") for step in range(4)]
    assert rates == pytest.approx([2.0, 1 + 2**-0.5, 1.0, 1 - 2**-0.5])


def test_poly_is_nnunets() -> None:
    rates = [learning_rate(1.0, step, 4, schedule="poly") for step in range(4)]
    assert rates == pytest.approx([1, 0.75**0.9, 0.5**0.9, 0.25**0.9])


def test_steps_are_down_after_so_many_epochs_of_so_many_steps() -> None:
    schedule = make_schedule("step", {"step_factor": 0.5, "step_epochs": 2})
    rates = [rate_of(8.0, step, 18, schedule=schedule, warmup_steps=2, epoch_steps=3) for step in range(18)]
    assert rates == [4.0, *[8.0] * 5, *[4.0] * 6, *[2.0] * 6]


@pytest.mark.parametrize("schedule", ["cosine", "poly"])
def test_a_decay_begins_where_the_warm_up_ends_and_never_gets_to_0(schedule: str) -> None:
    rates = [learning_rate(1.0, step, 20, warmup_steps=5, schedule=schedule) for step in range(20)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(later < sooner for sooner, later in pairwise(rates[4:]))
    assert 0 < rates[-1] < 0.1


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_training_shorter_than_its_warm_up_only_grows(schedule: str) -> None:
    rates = [learning_rate(1.0, step, 4, warmup_steps=100, schedule=schedule) for step in range(4)]
    assert rates == pytest.approx([0.01, 0.02, 0.03, 0.04])


def test_a_schedule_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"unknown schedule 'linear'; .*valid: constant, cosine, poly, step"):
        make_schedule("linear", {})
