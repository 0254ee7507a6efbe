from __future__ import annotations

import numpy as np
import pytest

from mspipeline.errors import ShapeError
from mspipeline.optimizers import OPTIMIZERS, Sgd, make_optimizer
from mspipeline.optimizers.numpy_steps import NumPySteps

SHAPES = {"a": (2, 3), "b": (4,)}


def some(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def test_weights_are_written_in_place_and_clipped_over_all_of_them() -> None:
    steps = NumPySteps(Sgd(0.5, momentum=0.0, weight_decay=0.0, clip_norm=1.0), {"a": (1,), "b": (1,)})
    weights = {"a": np.zeros(1, np.float32), "b": np.zeros(1, np.float32)}
    held = dict(weights)
    steps.step({"a": np.array([3], np.float32), "b": np.array([4], np.float32)}, weights)
    assert held["a"] == pytest.approx([-0.3])
    assert held["b"] == pytest.approx([-0.4])
    steps.step({"a": np.array([0.5], np.float32), "b": np.zeros(1, np.float32)}, weights, rate=1.0)
    assert held["a"] == pytest.approx([-0.8])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_going_on_from_a_state_equals_never_having_stopped(name: str) -> None:
    steps, weights = NumPySteps(make_optimizer(name, {}), SHAPES), some(0)
    for number in (1, 2):
        steps.step(some(number), weights)
    other, copied = NumPySteps(make_optimizer(name, {}), SHAPES), {key: each.copy() for key, each in weights.items()}
    other.set_state(steps.state())
    for each, held in ((steps, weights), (other, copied)):
        each.step(some(3), held)
    assert all(np.array_equal(weights[key], copied[key]) for key in SHAPES)


def test_the_state_of_another_optimizer_is_refused() -> None:
    adam, sgd = (NumPySteps(make_optimizer(name, {}), SHAPES) for name in ("adam", "sgd"))
    with pytest.raises(ShapeError, match="another network: 2 entries differ"):
        sgd.set_state(adam.state())
