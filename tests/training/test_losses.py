import numpy as np
import pytest

from mspipeline.training import losses

MASK = np.array([1.0, 0.0, 1.0, 0.0])
PROBABILITY = np.array([0.8, 0.4, 0.1, 0.05])


def test_bce_by_hand() -> None:
    expected = -(np.log(0.8) + np.log(0.6) + np.log(0.1) + np.log(0.95)) / 4
    assert losses.bce(MASK, PROBABILITY) == pytest.approx(expected)


def test_bce_of_a_sure_mistake_is_finite() -> None:
    assert losses.bce(np.array([1.0]), np.array([0.0])) == pytest.approx(-np.log(1e-7))


def test_dice_by_hand() -> None:
    # overlap 0.9, masks 2, probabilities 1.35, smooth 1
    assert losses.dice(MASK, PROBABILITY) == pytest.approx(1 - 2.8 / 4.35)


def test_dice_of_nothing_found_in_nothing_is_zero() -> None:
    assert losses.dice(np.zeros(4), np.zeros(4)) == 0


@pytest.mark.parametrize("name", ["bce", "dice"])
def test_gradients_agree_with_finite_differences(name: str) -> None:
    loss, gradient = getattr(losses, name), getattr(losses, f"{name}_gradient")
    numeric = np.empty(4)
    for index in range(4):
        step = np.zeros(4)
        step[index] = 1e-6
        numeric[index] = (loss(MASK, PROBABILITY + step) - loss(MASK, PROBABILITY - step)) / 2e-6
    assert np.allclose(gradient(MASK, PROBABILITY), numeric, rtol=1e-6)
