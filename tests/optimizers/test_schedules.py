import pytest

from mspipeline.optimizers.schedules import warmed_up


def test_the_rate_grows_in_equal_parts_and_then_stays() -> None:
    assert [warmed_up(0.3, step, 3) for step in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.3, 0.3])


@pytest.mark.parametrize("steps", [0, 1])
def test_without_warm_up_every_step_has_the_very_rate(steps: int) -> None:
    assert [warmed_up(0.1, step, steps) for step in range(3)] == [0.1, 0.1, 0.1]


def test_after_the_warm_up_the_rate_is_the_one_given_to_the_last_bit() -> None:
    assert all(warmed_up(0.1, step, 7) == 0.1 for step in range(6, 20))
