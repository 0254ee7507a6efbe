"""Every optimizer on every backend that is installed here: steps against NumPy's, and against others' optimizers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mspipeline import losses
from mspipeline.arrays import NUMPY
from mspipeline.backends.base import Backend, Execution
from mspipeline.backends.registry import create
from mspipeline.errors import ShapeError
from mspipeline.losses import make_loss
from mspipeline.network.graph import Builder, Graph
from mspipeline.network.ops import BatchNorm, Conv, Dropout, Input, Relu, Sigmoid
from mspipeline.network.weights import Weights, initial_weights
from mspipeline.optimizers import OPTIMIZERS, Adadelta, Adam, Optimizer, Sgd, learning_rate, make_optimizer
from mspipeline.optimizers.clipping import clipped_to_norm
from mspipeline.optimizers.cosine import Cosine
from mspipeline.training.checkpoint import read_checkpoint
from tests.contract.contract_backend import CHECKPOINTS

POINTWISE = Conv(1, (1, 1), (1, 1), (1, 1), ((0, 0), (0, 0)), bias=True)
CASES: dict[str, Optimizer] = {
    "adam": Adam(0.1),
    "adam clipped": Adam(0.1, epsilon=1e-2, clip_norm=0.05),
    "sgd": Sgd(0.5, momentum=0.0, weight_decay=0.0),
    "sgd with momentum": Sgd(0.5, momentum=0.9, nesterov=False, weight_decay=0.0),
    "sgd as nnU-Net's": Sgd(0.5),
    "sgd with decay, clipped": Sgd(0.5, momentum=0.9, weight_decay=0.1, clip_norm=0.05),
    "adadelta": Adadelta(),
    "adadelta as Zeiler's": Adadelta(epsilon=1e-6),
    "adadelta clipped": Adadelta(0.5, rho=0.8, epsilon=1e-2, clip_norm=0.05),
}
STEPS = 6
RATES = [learning_rate(1.0, step, STEPS, schedule=Cosine(), warmup_steps=3) for step in range(STEPS)]


def logistic() -> Graph:
    """(4, 4, 2) -> one probability a voxel, by three weights."""
    builder = Builder("logistic")
    x = builder.add("point", POINTWISE, builder.add("image", Input((4, 4, 2))))
    return builder.graph(builder.add("out", Sigmoid(), x))


def small() -> Graph:
    """Two convolutions, normalisation and dropout between them."""
    builder = Builder("small")
    x = builder.add("image", Input((8, 8, 1)))
    x = builder.add("conv", Conv(3, (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), bias=False), x)
    x = builder.add("act", Relu(), builder.add("norm", BatchNorm(0.9, 1e-5), x))
    x = builder.add("point", POINTWISE, builder.add("drop", Dropout(0.25), x))
    return builder.graph(builder.add("out", Sigmoid(), x))


def compiled(name: str, graph: Graph, optimizer: Optimizer) -> Backend:
    backend = create(name)
    backend.build(graph, Execution(device="cpu", threads=2, seed=5))
    backend.set_weights(initial_weights(graph, 0))
    backend.compile(make_loss("bce"), optimizer)
    return backend


def batch(graph: Graph, seed: int, count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((count, *graph.inputs[0].shape)).astype(np.float32)
    return images, (rng.random((*images.shape[:-1], 1)) > 0.5).astype(np.float32)


def gradients_of(weights: np.ndarray, images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Of binary cross-entropy of the logistic graph by (kernel, kernel, bias), by hand."""
    probability = 1 / (1 + np.exp(-(images @ weights[:2, None] + weights[2])))
    slope = losses.bce_gradient(masks, probability) * probability * (1 - probability)
    return np.append(np.einsum("nhwi,nhwo->i", images, slope), slope.sum())


def flat(weights: Weights) -> np.ndarray:
    return np.append(weights["point", "kernel"].ravel(), weights["point", "bias"]).astype(float)


@pytest.mark.parametrize("case", CASES)
def test_steps_are_the_rules_in_numpy(name: str, case: str) -> None:
    """In a warm-up and a cosine after it; the rates are the optimizer's own times those of `RATES`."""
    optimizer, graph = CASES[case], logistic()
    backend = compiled(name, graph, optimizer)
    held = flat(backend.weights())
    slots = tuple(np.zeros(3) for _ in optimizer.slots)
    for number, factor in enumerate(RATES):
        images, masks = batch(graph, number)
        rate = optimizer.learning_rate * factor
        (gradient,) = clipped_to_norm(NUMPY, [gradients_of(held, images, masks)], optimizer.clip_norm)
        held, slots = optimizer.update(NUMPY, held, gradient, slots, number + 1, rate)
        backend.train_step(images, masks, rate)
        assert flat(backend.weights()) == pytest.approx(held, rel=2e-5, abs=2e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_without_a_rate_has_the_optimizers(name: str, optimizer: str) -> None:
    rule, graph = make_optimizer(optimizer, {}), logistic()
    one, other = compiled(name, graph, rule), compiled(name, graph, replace(rule, learning_rate=0.0))  # type: ignore[type-var]
    one.train_step(*batch(graph, 0))
    other.train_step(*batch(graph, 0), rule.learning_rate)
    assert np.array_equal(flat(one.weights()), flat(other.weights()))
    assert not np.array_equal(flat(one.weights()), flat(initial_weights(graph, 0)))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_going_on_from_a_state_equals_never_having_stopped(name: str, optimizer: str) -> None:
    graph, rule = small(), make_optimizer(optimizer, {})
    backend = compiled(name, graph, rule)
    for seed in range(3):
        backend.train_step(*batch(graph, seed))
    weights, state = backend.weights(), backend.state()
    assert all(key.startswith(("optimizer/", "random/")) for key in state)
    other = compiled(name, graph, rule)
    other.train_step(*batch(graph, 9))
    other.set_weights(weights)
    other.set_state(state)
    for each in (backend, other):
        each.train_step(*batch(graph, 3))
    after, again = backend.weights(), other.weights()
    assert all(np.array_equal(after[key], again[key]) for key in after)


def test_the_state_of_another_optimizer_is_refused(name: str) -> None:
    adam, sgd = (compiled(name, logistic(), make_optimizer(each, {})) for each in ("adam", "sgd"))
    with pytest.raises(ShapeError, match="another network"):
        sgd.set_state(adam.state())


def test_a_checkpoint_from_before_there_were_optimizers_goes_on(name: str) -> None:
    """Two files of the version that had Adam alone: after two steps, and, of the same training, after two more."""
    files = [CHECKPOINTS / f"{name}-after-{steps}-steps.h5" for steps in (2, 4)]
    if not files[0].exists():
        pytest.skip(f"no checkpoint of {name} was kept")
    before, after = map(read_checkpoint, files)
    graph = small()
    assert before.graph_hash == graph.hash
    backend = compiled(name, graph, Adam(1e-2, clip_norm=1.0))
    backend.set_weights(before.weights)
    backend.set_state(before.state)
    for seed in (2, 3):
        backend.train_step(*batch(graph, seed))
    weights, state = backend.weights(), backend.state()
    assert state.keys() == after.state.keys()
    assert all(weights[key] == pytest.approx(after.weights[key], rel=1e-5, abs=1e-6) for key in weights)
    assert all(state[key] == pytest.approx(after.state[key], rel=1e-4, abs=1e-6) for key in state)


def moved_by(rule: Optimizer, gradients: list[np.ndarray], rates: list[float]) -> list[np.ndarray]:
    """By our rule in float64: weights after each step, from ones."""
    weight, slots, found = np.ones(4), tuple(np.zeros(4) for _ in rule.slots), []
    for step, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        weight, slots = rule.update(NUMPY, weight, gradient, slots, step, rate)
        found.append(weight)
    return found


def some_gradients() -> list[np.ndarray]:
    return [np.random.default_rng(seed).normal(0, 0.3, 4) for seed in range(5)]


PYTORCHS: dict[str, tuple[Optimizer, str, dict[str, Any]]] = {
    "nnU-Net's": (Sgd(), "SGD", {"momentum": 0.99, "nesterov": True, "weight_decay": 3e-5}),
    "decay": (Sgd(momentum=0.0, weight_decay=0.1), "SGD", {"weight_decay": 0.1}),
    "momentum": (
        Sgd(momentum=0.9, nesterov=False, weight_decay=0.1),
        "SGD",
        {"momentum": 0.9, "weight_decay": 0.1},
    ),
    "Adadelta": (Adadelta(rho=0.9, epsilon=1e-6), "Adadelta", {"rho": 0.9, "eps": 1e-6}),
    "Adam": (Adam(epsilon=1e-3), "Adam", {"eps": 1e-3}),
}


@pytest.mark.parametrize("case", PYTORCHS)
def test_rules_are_pytorchs(name: str, case: str) -> None:
    if name != "torch":
        pytest.skip("compared in the process that has PyTorch")
    import torch

    rule, kind, settings = PYTORCHS[case]
    weight = torch.ones(4, dtype=torch.float64, requires_grad=True)
    theirs = getattr(torch.optim, kind)([weight], lr=1.0, **settings)
    rates = [0.5, 0.25, 0.1, 0.1, 0.7]
    for expected, gradient, rate in zip(moved_by(rule, some_gradients(), rates), some_gradients(), rates, strict=True):
        theirs.param_groups[0]["lr"] = rate
        weight.grad = torch.from_numpy(gradient)
        theirs.step()
        assert weight.detach().numpy() == pytest.approx(expected, rel=1e-12)


KERAS: dict[str, tuple[Optimizer, str, dict[str, Any]]] = {
    "SGD": (Sgd(momentum=0.9, weight_decay=0.0), "SGD", {"momentum": 0.9, "nesterov": True}),
    "Adadelta": (Adadelta(epsilon=1e-6), "Adadelta", {"rho": 0.95, "epsilon": 1e-6}),
}


@pytest.mark.parametrize("case", KERAS)
def test_at_one_rate_rules_are_keras_own(name: str, case: str) -> None:
    """Keras' SGD has the rate within what it gathers, so that they part where it changes."""
    keras = pytest.importorskip("keras")
    if name not in ("tensorflow", "torch", "jax"):
        pytest.skip(f"{name} has no Keras")
    compiled(name, logistic(), Adam())  # Keras is loaded on this engine
    rule, kind, settings = KERAS[case]
    theirs = getattr(keras.optimizers, kind)(learning_rate=0.5, **settings)
    variable = keras.Variable(np.ones(4, np.float32))
    theirs.build([variable])
    for expected, gradient in zip(moved_by(rule, some_gradients(), [0.5] * 5), some_gradients(), strict=True):
        theirs.apply([keras.ops.convert_to_tensor(gradient.astype(np.float32))], [variable])
        value = variable.value.detach().numpy() if name == "torch" else np.asarray(variable.value)
        assert value == pytest.approx(expected, rel=1e-5)
