"""What every backend must do. Which one a process tests: see `conftest.py`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import signal

from mspipeline import losses
from mspipeline.backends.base import Backend, Execution
from mspipeline.backends.registry import adapter, create
from mspipeline.errors import BackendError, ShapeError
from mspipeline.losses import make_loss
from mspipeline.models.catalogue import build
from mspipeline.network.graph import Builder, Graph
from mspipeline.network.ops import BatchNorm, Concat, Conv, Dropout, Input, MaxPool, Op, Relu, Sigmoid, Upsample
from mspipeline.network.weights import initial_weights
from mspipeline.optimizers import Adam
from mspipeline.telemetry.gpu import open_gpus

CONV = Conv(3, (2, 3), (1, 1), (1, 1), ((0, 1), (1, 1)), bias=True)
POINTWISE = Conv(1, (1, 1), (1, 1), (1, 1), ((0, 0), (0, 0)), bias=True)


def small_graph() -> Graph:
    """(6, 8, 2) -> one probability a voxel: what a U-Net is made of, once each."""
    builder = Builder("small")
    image = builder.add("image", Input((6, 8, 2)))
    x = builder.add("conv", CONV, image)
    x = builder.add("norm", BatchNorm(0.9, 1e-5), x)
    x = builder.add("act", Relu(), x)
    x = builder.add("pool", MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), ceil=False), x)
    x = builder.add("drop", Dropout(0.5), x)
    x = builder.add("up", Upsample((2, 2)), x)
    x = builder.add("join", Concat(), image, x)
    x = builder.add("point", POINTWISE, x)
    return builder.graph(builder.add("out", Sigmoid(), x))


SMALL = small_graph()


def trained(
    name: str, graph: Graph = SMALL, *, loss: Any = "bce", learning_rate: float = 1e-3, epsilon: float = 1e-7
) -> Backend:
    if problem := adapter(name).unsupported(graph):
        pytest.skip(f"{name} has no {', '.join(problem)}")
    backend = create(name)
    backend.build(graph, Execution(device="cpu", threads=2, seed=5))
    backend.set_weights(initial_weights(graph, 0))
    backend.compile(make_loss(loss), Adam(learning_rate, epsilon=epsilon))
    return backend


def batch(count: int = 4, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    images = np.random.default_rng(seed).standard_normal((count, 6, 8, 2)).astype(np.float32)
    return images, (images[..., :1] > 1).astype(np.float32)


def correlate(image: np.ndarray, kernel: np.ndarray, bias: np.ndarray, padding: Any) -> np.ndarray:
    """(H, W, I), (kh, kw, I, O) -> (H', W', O), by SciPy: another implementation than any backend's."""
    padded = np.pad(image, (*padding, (0, 0))).astype(float)
    maps = [signal.correlate(padded, kernel[..., o], mode="valid")[..., 0] for o in range(kernel.shape[3])]
    return np.stack(maps, axis=-1) + bias


def test_a_forward_pass_equals_scipys(name: str) -> None:
    graph, rng = SMALL, np.random.default_rng(1)
    weights = {key: rng.random(spec.shape).astype(np.float32) + 0.1 for key, spec in graph.weights().items()}
    image = rng.standard_normal((6, 8, 2)).astype(np.float32)
    x = correlate(image, weights["conv", "kernel"], weights["conv", "bias"], CONV.padding)
    scale = weights["norm", "gamma"] / np.sqrt(weights["norm", "variance"] + 1e-5)
    x = np.maximum((x - weights["norm", "mean"]) * scale + weights["norm", "beta"], 0)
    x = x.reshape(3, 2, 4, 2, 3).max(axis=(1, 3)).repeat(2, axis=0).repeat(2, axis=1)
    x = np.concatenate([image, x], axis=-1) @ weights["point", "kernel"][0, 0] + weights["point", "bias"]
    backend = create(name)
    backend.build(graph, Execution(device="cpu", threads=2))
    backend.set_weights(weights)
    assert np.allclose(backend.predict(image[None])[0], 1 / (1 + np.exp(-x)), atol=1e-6)


@pytest.mark.parametrize("loss", ["bce", "dice"])
def test_losses_are_the_references(name: str, loss: str) -> None:
    backend, (images, masks) = trained(name, loss=loss), batch()
    result = backend.evaluate_step(images, masks)
    assert result.loss == pytest.approx(getattr(losses, loss)(masks, result.probability.astype(float)), rel=1e-5)
    assert np.array_equal(result.probability, backend.predict(images))


@pytest.mark.parametrize("epsilon", [1e-7, 1e-2])
def test_three_adam_steps_are_the_papers(name: str, epsilon: float) -> None:
    """Algorithm 1 of Kingma & Ba line by line; the large epsilon shows where it is added."""
    builder = Builder("logistic")
    x = builder.add("point", POINTWISE, builder.add("image", Input((4, 4, 2))))
    graph = builder.graph(builder.add("out", Sigmoid(), x))
    backend, rng = trained(name, graph, learning_rate=0.1, epsilon=epsilon), np.random.default_rng(2)
    kernel = backend.weights()["point", "kernel"][0, 0].astype(float)
    bias, mean, square = np.zeros(1), np.zeros((3, 1)), np.zeros((3, 1))
    for step in (1, 2, 3):
        images = rng.standard_normal((3, 4, 4, 2)).astype(np.float32)
        masks = (rng.random((3, 4, 4, 1)) > 0.5).astype(np.float32)
        probability = 1 / (1 + np.exp(-(images @ kernel + bias)))
        assert backend.train_step(images, masks).loss == pytest.approx(losses.bce(masks, probability), rel=1e-5)
        slope = losses.bce_gradient(masks, probability) * probability * (1 - probability)
        gradient = np.vstack([np.einsum("nhwi,nhwo->io", images, slope), slope.sum((0, 1, 2))])
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        change = 0.1 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + epsilon)
        kernel, bias = kernel - change[:2], bias - change[2]
        assert np.allclose(backend.weights()["point", "kernel"][0, 0], kernel, atol=1e-5)
        assert np.allclose(backend.weights()["point", "bias"], bias, atol=1e-5)


def test_training_lowers_the_loss(name: str) -> None:
    backend, (images, masks) = trained(name, learning_rate=3e-2), batch()
    values = [backend.train_step(images, masks).loss for _ in range(30)]
    assert values[-1] < 0.7 * values[0]


def test_normalisation_keeps_the_stated_share_of_its_running_mean(name: str) -> None:
    backend, (images, masks) = trained(name), batch()
    kernel, bias = (backend.weights()["conv", part] for part in ("kernel", "bias"))
    maps = np.stack([correlate(image, kernel, bias, CONV.padding) for image in images])
    backend.train_step(images, masks)
    assert np.allclose(backend.weights()["norm", "mean"], 0.1 * maps.mean(axis=(0, 1, 2)), atol=1e-6)
    expected = 0.9 + 0.1 * maps.var(axis=(0, 1, 2))
    assert np.allclose(backend.weights()["norm", "variance"], expected, rtol=1e-4)


def test_going_on_from_a_state_equals_never_having_stopped(name: str) -> None:
    """Dropout is in the network, so its generator must go on too."""
    if not adapter(name).resumes_exactly(SMALL):
        pytest.skip(f"{name} cannot go on exactly with {SMALL.name}")
    backend = trained(name)
    batches = [batch(seed=number) for number in range(6)]
    for each in batches[:3]:
        backend.train_step(*each)
    weights, state = backend.weights(), backend.state()
    uninterrupted = [backend.train_step(*each).loss for each in batches[3:]]
    other = trained(name)
    other.train_step(*batches[5])
    other.set_weights(weights)
    other.set_state(state)
    assert [other.train_step(*each).loss for each in batches[3:]] == uninterrupted
    final, expected = other.weights(), backend.weights()
    assert all(np.array_equal(final[key], expected[key]) for key in expected)


def test_a_trace_changes_nothing_and_gives_the_next_steps_gradient(name: str) -> None:
    """With an enormous epsilon Adam's first step is minus the gradient, but for |g| / epsilon < 1e-4 of it.

    Dropout draws the same again, as the trace put its generator back.
    """
    backend, (images, masks) = trained(name, learning_rate=1e4, epsilon=1e4), batch()
    before, state = backend.weights(), backend.state()
    trace = backend.trace(images, masks, ["norm", "act", "out"])
    kept, kept_state = backend.weights(), backend.state()
    assert all(np.array_equal(kept[key], before[key]) for key in before)
    assert all(np.array_equal(kept_state[key], state[key]) for key in state)
    assert np.array_equal(np.maximum(trace.activations["norm"], 0), trace.activations["act"])
    assert trace.activations["norm"].min() < 0
    assert np.allclose(trace.activations["out"], backend.predict(images), atol=1e-6)
    assert backend.train_step(images, masks).loss == pytest.approx(trace.loss, rel=1e-6)
    after = backend.weights()
    trainable = {key for key, spec in SMALL.weights().items() if spec.trainable}
    assert trace.gradients.keys() == trainable
    assert all(np.allclose(before[key] - after[key], trace.gradients[key], rtol=1e-4, atol=1e-6) for key in trainable)


def test_of_several_outputs_all_are_trained_and_the_first_comes_back(name: str) -> None:
    builder = Builder("two heads")
    image = builder.add("image", Input((4, 4, 2)))
    first = builder.add("fine", replace(POINTWISE, filters=2), image)
    pooled = builder.add("pool", MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), ceil=False), image)
    graph = builder.graph(first, builder.add("coarse", replace(POINTWISE, filters=2), pooled))
    if problem := adapter(name).unsupported(graph):
        pytest.skip(f"{name} has no {', '.join(problem)}")
    backend, rng = create(name), np.random.default_rng(6)
    backend.build(graph, Execution(device="cpu", threads=2))
    before = initial_weights(graph, 0)
    backend.set_weights(before)
    try:
        backend.compile(make_loss("ce_dice", level_weights=(0.7, 0.3)), Adam(0.1))
    except BackendError as error:
        pytest.skip(str(error))
    images = rng.standard_normal((3, 4, 4, 2)).astype(np.float32)
    masks = np.eye(2, dtype=np.float32)[(images[..., 0] > 0).astype(int)]
    logits = images @ before["fine", "kernel"][0, 0]
    assert np.allclose(backend.predict(images), logits, atol=1e-6)
    assert np.allclose(backend.train_step(images, masks).probability, logits, atol=1e-6)
    after = backend.weights()
    assert all(not np.allclose(before[node, "kernel"], after[node, "kernel"]) for node in ("fine", "coarse"))


def test_the_last_batch_may_be_smaller(name: str) -> None:
    backend = trained(name)
    for count in (4, 1, 3):
        assert backend.train_step(*batch(count)).probability.shape == (count, 6, 8, 1)
        assert backend.predict(batch(count)[0]).shape == (count, 6, 8, 1)


def logistic() -> Graph:
    """(4, 4, 2) -> one probability a voxel, by three weights."""
    builder = Builder("logistic")
    x = builder.add("point", POINTWISE, builder.add("image", Input((4, 4, 2))))
    return builder.graph(builder.add("out", Sigmoid(), x))


def test_a_step_has_the_rate_that_it_is_given(name: str) -> None:
    """Adam's first step is the rate times the gradient's sign; one of rate 0 moves nothing, but the moments."""
    images = np.ones((1, 4, 4, 2), np.float32)
    masks = np.ones((1, 4, 4, 1), np.float32)
    for rate, expected in ((0.25, 0.25), (None, 0.125), (0.0, 0.0)):
        backend = trained(name, logistic(), learning_rate=0.125)
        before = backend.weights()["point", "bias"]
        backend.train_step(images, masks, rate)
        assert backend.weights()["point", "bias"] - before == pytest.approx([expected], rel=1e-5)


@pytest.mark.parametrize(("clip_norm", "shortened"), [(0.1, True), (1.0, False), (None, False)])
def test_a_gradient_longer_than_the_norm_is_shortened_to_it(
    name: str, clip_norm: float | None, shortened: bool
) -> None:
    """Of zero weights and images of (3, 0) p is 0.5: by kernel and bias the gradient is -0.5 * (3, 0) and -0.5.

    With an enormous epsilon Adam's first step is minus the gradient.
    """
    backend = trained(name, logistic())
    backend.compile(make_loss("bce"), Adam(1e4, epsilon=1e4, clip_norm=None if clip_norm is None else 1.7 * clip_norm))
    backend.set_weights({key: np.zeros_like(each) for key, each in backend.weights().items()})
    images = np.zeros((2, 4, 4, 2), np.float32)
    images[..., 0] = 3
    backend.train_step(images, np.ones((2, 4, 4, 1), np.float32))
    moved = np.concatenate([each.ravel() for each in backend.weights().values()])
    length = np.hypot(1.5, 0.5)  # 1.58
    expected = np.array([1.5, 0, 0.5]) * (0.17 / length if shortened else 1)
    assert np.allclose(np.sort(moved), np.sort(expected), rtol=2e-4, atol=1e-7)


def test_dropout_drops_what_numpy_drew_whatever_the_backend(name: str) -> None:
    """The masks are those of NumPy's generator, seeded by the run, the place of the node and the step."""
    builder = Builder("dropped")
    x = builder.add("conv", replace(POINTWISE, filters=2, bias=False), builder.add("image", Input((5, 4, 2))))
    graph = builder.graph(builder.add("drop", Dropout(0.25), x))
    backend = create(name)
    backend.build(graph, Execution(device="cpu", threads=2, seed=11))
    backend.set_weights({("conv", "kernel"): np.eye(2, dtype=np.float32).reshape(1, 1, 2, 2)})
    backend.compile(make_loss("bce"), Adam(0.0))
    images = np.full((3, 5, 4, 2), 0.3, np.float32)
    for step in range(2):
        kept = np.random.default_rng([11, 0, step]).random((3, 5, 4, 2), np.float32) >= 0.25
        result = backend.train_step(images, images)
        assert np.allclose(result.probability, np.where(kept, 0.4, 0))


def test_weights_come_back_as_they_went_in(name: str) -> None:
    backend, weights = trained(name), initial_weights(SMALL, 9)
    backend.set_weights(weights)
    back = backend.weights()
    assert back.keys() == weights.keys()
    assert all(np.array_equal(back[key], weights[key]) for key in weights)


def test_weights_and_state_of_another_network_are_refused(name: str) -> None:
    backend, other = trained(name), build("unet2d", (32, 48, 1), {"base_width": 2})
    with pytest.raises(ShapeError, match="another network"):
        backend.set_weights(initial_weights(other, 0))
    state = backend.state()
    state.pop(next(iter(state)))
    with pytest.raises(ShapeError, match="another network"):
        backend.set_state(state)


def test_an_operation_that_a_backend_lacks_is_named_before_the_framework_is_used(name: str) -> None:
    class Median(Op):
        def output_shape(self, inputs: Any) -> Any:
            return inputs[0]

    builder = Builder("odd")
    graph = builder.graph(builder.add("middle", Median(), builder.add("image", Input((4, 4, 1)))))
    with pytest.raises(BackendError, match=rf"{name} cannot realise odd: middle \(Median\)"):
        adapter(name).check(graph)


def test_a_gpu_that_is_not_there_is_said(name: str) -> None:
    backend = create(name)
    if open_gpus() is not None:
        pytest.skip("there is a GPU here")
    with pytest.raises(BackendError, match="sees no GPU here"):
        backend.build(SMALL, Execution(device="gpu", threads=2))
