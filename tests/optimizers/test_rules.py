"""The update rules by hand; other implementations of them are in tests/contract/test_optimizers.py."""

from __future__ import annotations

import numpy as np
import pytest

from mspipeline.arrays import NUMPY
from mspipeline.errors import ConfigError
from mspipeline.optimizers import OPTIMIZERS, Adadelta, Adam, Optimizer, Sgd, make_optimizer


def path(optimizer: Optimizer, weight: float, gradients: list[float], rate: float) -> list[float]:
    """The weight after each step."""
    found, slots = [], tuple(np.zeros(1) for _ in optimizer.slots)
    held = np.array([weight])
    for step, gradient in enumerate(gradients, 1):
        held, slots = optimizer.update(NUMPY, held, np.array([gradient]), slots, step, rate)
        found.append(float(held[0]))
    return found


def test_plain_descent_is_the_rate_times_the_gradient() -> None:
    assert path(Sgd(momentum=0.0, weight_decay=0.0), 1.0, [2.0, -1.0], 0.1) == pytest.approx([0.8, 0.9])


def test_momentum_gathers_the_gradients_before() -> None:
    """b = 2, then 1 + 2 = 3."""
    optimizer = Sgd(momentum=0.5, nesterov=False, weight_decay=0.0)
    assert path(optimizer, 1.0, [2.0, 2.0], 0.1) == pytest.approx([0.8, 0.5])


def test_nesterov_looks_ahead_and_decay_is_part_of_the_gradient() -> None:
    """g = 2.1, b = 2.1, step 2.1 + 1.05; then g = 2.0685, b = 3.1185, step 2.0685 + 1.55925."""
    optimizer = Sgd(momentum=0.5, nesterov=True, weight_decay=0.1)
    assert path(optimizer, 1.0, [2.0, 2.0], 0.1) == pytest.approx([0.685, 0.322225])


def test_the_rate_of_a_step_does_not_rescale_what_was_gathered_before() -> None:
    optimizer, slots = Sgd(momentum=0.5, nesterov=False, weight_decay=0.0), (np.zeros(1),)
    weight, slots = optimizer.update(NUMPY, np.ones(1), np.ones(1), slots, 1, 1.0)
    weight, _ = optimizer.update(NUMPY, weight, np.ones(1), slots, 2, 0.1)
    assert weight == pytest.approx([1 - 1 - 0.1 * 1.5])


def test_adadelta_divides_by_the_gradients_and_multiplies_by_the_steps_before() -> None:
    """v = 1/2, d = sqrt(1) / sqrt(3/2), u = 1/3; then v = 3/4, d = sqrt(4/3) / sqrt(7/4)."""
    expected = [1 - (2 / 3) ** 0.5, 1 - (2 / 3) ** 0.5 - (16 / 21) ** 0.5]
    assert path(Adadelta(rho=0.5, epsilon=1.0), 1.0, [1.0, 1.0], 1.0) == pytest.approx(expected)


def test_adams_first_step_is_as_long_as_the_rate_and_epsilon_stands_outside_the_root() -> None:
    assert path(Adam(epsilon=0.0), 1.0, [3.0], 0.1) == pytest.approx([0.9])
    assert path(Adam(epsilon=3.0), 1.0, [3.0], 0.1) == pytest.approx([0.95])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_rule_keeps_float32_and_what_it_is_given(name: str) -> None:
    optimizer = make_optimizer(name, {})
    weight, gradient = np.ones(3, np.float32), np.full(3, 0.5, np.float32)
    slots = tuple(np.zeros(3, np.float32) for _ in optimizer.slots)
    after, new = optimizer.update(NUMPY, weight, gradient, slots, 1, 0.1)
    assert {each.dtype for each in (after, *new)} == {np.dtype(np.float32)}
    assert (weight == 1).all()
    assert not any(each.any() for each in slots)
    assert (after < weight).all()


def test_the_table_names_every_optimizer_by_its_own_name_and_rate() -> None:
    made = {name: make_optimizer(name, {}) for name in OPTIMIZERS}
    assert {name: each.learning_rate for name, each in made.items()} == {"adam": 1e-3, "sgd": 1e-2, "adadelta": 1.0}
    assert all(each.name == name for name, each in made.items())
    with pytest.raises(ConfigError, match="unknown optimizer 'adm'; did you mean 'adam'"):
        make_optimizer("adm", {})
