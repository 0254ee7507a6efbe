"""Every loss on every backend that is installed here: values and gradients against NumPy's."""

from __future__ import annotations

import numpy as np
import pytest

from mspipeline import losses
from mspipeline.backends.base import Backend, Execution
from mspipeline.backends.registry import adapter, create
from mspipeline.errors import BackendError, ConfigError
from mspipeline.losses import Loss, make_loss
from mspipeline.losses.cross_entropy_and_dice import CrossEntropyAndDice
from mspipeline.losses.weighted_cross_entropy import WeightedCrossEntropy
from mspipeline.network.graph import Builder, Graph
from mspipeline.network.ops import Conv, Dense, Flatten, Input, Sigmoid, Softmax
from mspipeline.network.weights import Weights
from mspipeline.optimizers import Adam

HAVE_EVERY_LOSS = {"tensorflow", "torch", "jax"}
Heads = list[np.ndarray]


def pointwise(filters: int, axes: int, stride: tuple[int, ...] = ()) -> Conv:
    """A kernel of one voxel: each voxel's logits are a matrix product of its channels."""
    ones = (1,) * axes
    return Conv(filters, ones, stride or ones, ones, ((0, 0),) * axes, bias=True)


def map_of(channels: int) -> Graph:
    """(4, 6, 2) -> one sigmoid probability a voxel, or a softmax over `channels` classes."""
    builder = Builder(f"map of {channels}")
    x = builder.add("logits", pointwise(channels, 2), builder.add("image", Input((4, 6, 2))))
    return builder.graph(builder.add("out", Softmax() if channels > 1 else Sigmoid(), x))


def patches() -> Graph:
    """(2, 2, 2) -> three classes a patch."""
    builder = Builder("patches")
    x = builder.add("flat", Flatten(), builder.add("image", Input((2, 2, 2))))
    return builder.graph(builder.add("out", Softmax(), builder.add("logits", Dense(3, bias=True), x)))


def heads(*strides: tuple[int, int, int]) -> Graph:
    """(4, 4, 2, 2) -> logits of three classes at every n-th voxel along each axis, one head for each of the strides."""
    builder = Builder(f"{len(strides)} heads")
    image = builder.add("image", Input((4, 4, 2, 2)))
    return builder.graph(*[builder.add(f"head{i}", pointwise(3, 3, n), image) for i, n in enumerate(strides)])


def batch(graph: Graph, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    images = rng.standard_normal((count, *graph.inputs[0].shape)).astype(np.float32)
    *spatial, channels = graph[graph.outputs[0]].shape
    if channels == 1:
        return images, rng.integers(0, 2, (count, *spatial, 1)).astype(np.float32)
    return images, np.eye(channels, dtype=np.float32)[rng.integers(0, channels, (count, *spatial))]


def weights_of(graph: Graph, scale: float = 1.0) -> Weights:
    rng = np.random.default_rng(7)
    return {key: (scale * rng.normal(0, 1, spec.shape)).astype(np.float32) for key, spec in graph.weights().items()}


def compiled(name: str, graph: Graph, loss: Loss, weights: Weights | None = None) -> Backend:
    """A backend ready to train; where it cannot have the graph or the loss, it must say so, and the test is skipped."""
    if nodes := adapter(name).unsupported(graph):
        pytest.skip(f"{name} cannot realise {', '.join(nodes)}")
    backend = create(name)
    try:
        backend.build(graph, Execution(device="cpu", threads=2, seed=5))
        backend.compile(loss, Adam(0.05))
    except BackendError as error:
        if name in HAVE_EVERY_LOSS or (loss.name not in str(error) and graph.name not in str(error)):
            raise
        pytest.skip(str(error))
    backend.set_weights(weights or weights_of(graph))
    return backend


def inputs_of_logits(graph: Graph, images: np.ndarray) -> dict[str, np.ndarray]:
    """What each node with weights multiplies by its kernel: (N, *spatial, in), or (N, in)."""
    seen = {}
    for node in graph:
        if isinstance(node.op, Conv):
            seen[node.name] = images[(slice(None), *(slice(None, None, step) for step in node.op.stride))].astype(float)
        elif isinstance(node.op, Dense):
            seen[node.name] = images.reshape(len(images), -1).astype(float)
    return seen


def logits_of(seen: dict[str, np.ndarray], weights: Weights) -> Heads:
    kernels = {node: weights[node, "kernel"] for node in seen}
    return [x @ kernels[node].reshape(kernels[node].shape[-2:]) + weights[node, "bias"] for node, x in seen.items()]


def probability_of(logits: np.ndarray) -> np.ndarray:
    if logits.shape[-1] == 1:
        return 1 / (1 + np.exp(-logits))
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def numpys(loss: Loss, mask: np.ndarray, logits: Heads) -> tuple[float, Heads]:
    """A loss of these logits, and its gradient by them."""
    if isinstance(loss, CrossEntropyAndDice):
        value = losses.ce_dice(mask, logits, loss.level_weights, batch_dice=loss.batch_dice)
        return value, losses.ce_dice_gradient(mask, logits, loss.level_weights, batch_dice=loss.batch_dice)
    if loss.name == "bce_dice":
        return losses.bce_dice(mask, logits[0]), [losses.bce_dice_gradient(mask, logits[0])]
    weights = [loss.class_weights] if isinstance(loss, WeightedCrossEntropy) else []
    arguments = (mask, p := probability_of(logits[0]), *weights)
    slope = getattr(losses, f"{loss.name}_gradient")(*arguments)
    through = slope * p * (1 - p) if p.shape[-1] == 1 else p * (slope - np.sum(slope * p, axis=-1, keepdims=True))
    return getattr(losses, loss.name)(*arguments), [through]


CASES = {
    "bce": (map_of(1), make_loss("bce")),
    "dice": (map_of(1), make_loss("dice")),
    "bce_dice": (map_of(1), make_loss("bce_dice")),
    "weighted_ce of one probability": (map_of(1), make_loss("weighted_ce", class_weights=(0.05, 0.95))),
    "weighted_ce of classes": (map_of(3), make_loss("weighted_ce", class_weights=(0.1, 0.2, 0.7))),
    "weighted_ce of patches": (patches(), make_loss("weighted_ce", class_weights=(0.1, 0.2, 0.7))),
    "categorical_ce": (map_of(3), make_loss("categorical_ce")),
    "categorical_ce of patches": (patches(), make_loss("categorical_ce")),
    "ce_dice": (heads((1, 1, 1)), make_loss("ce_dice")),
    "ce_dice over the batch": (heads((1, 1, 1)), make_loss("ce_dice", batch_dice=True)),
    "ce_dice of two heads": (heads((1, 1, 1), (2, 2, 1)), make_loss("ce_dice", level_weights=(0.75, 0.25))),
    "ce_dice of a head without weight": (heads((1, 1, 1), (4, 2, 2)), make_loss("ce_dice", level_weights=(1.0, 0.0))),
}


@pytest.mark.parametrize("case", CASES)
def test_losses_and_their_gradients_are_numpys(name: str, case: str) -> None:
    graph, loss = CASES[case]
    backend, (images, masks) = compiled(name, graph, loss), batch(graph, 3)
    seen = inputs_of_logits(graph, images)
    expected, slopes = numpys(loss, masks, logits_of(seen, weights_of(graph)))
    traced = backend.trace(images, masks, list(graph.outputs))
    assert traced.loss == pytest.approx(expected, rel=1e-5)
    assert traced.gradients.keys() == graph.weights().keys()
    for (node, x), slope in zip(seen.items(), slopes, strict=True):
        kernel, bias = traced.gradients[node, "kernel"], traced.gradients[node, "bias"]
        every = list(range(slope.ndim - 1))
        assert np.allclose(bias, slope.sum(axis=tuple(every)), rtol=1e-4, atol=1e-6)
        assert np.allclose(kernel.reshape(kernel.shape[-2:]), np.tensordot(x, slope, (every, every)), atol=1e-5)
    assert backend.train_step(images, masks).loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_the_loss_of_any_batch_is_numpys(name: str, case: str) -> None:
    graph, loss = CASES[case]
    backend = compiled(name, graph, loss)
    for count in (3, 1):
        images, masks = batch(graph, count)
        expected, _ = numpys(loss, masks, logits_of(inputs_of_logits(graph, images), weights_of(graph)))
        assert backend.evaluate_step(images, masks).loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("case", ["bce", "weighted_ce of one probability", "weighted_ce of classes", "ce_dice"])
def test_sure_mistakes_have_a_finite_loss_and_gradient(name: str, case: str) -> None:
    graph, loss = CASES[case]
    weights = weights_of(graph, 1e3)
    backend, (images, masks) = compiled(name, graph, loss, weights), batch(graph, 3)
    logits = [head.astype(np.float32) for head in logits_of(inputs_of_logits(graph, images), weights)]
    with np.errstate(over="ignore"):  # exp(1000) in a sigmoid: 1 / inf is the 0 that is wanted
        expected, _ = numpys(loss, masks, logits)
    traced = backend.trace(images, masks, list(graph.outputs))
    # Of 1 - 1e-7 float32 keeps 1 - 1.2e-7: the logarithm of the rest is -15.9 or -16.1.
    assert traced.loss == pytest.approx(expected, rel=2e-2)
    assert all(np.isfinite(gradient).all() for gradient in traced.gradients.values())


def test_bce_dice_keeps_value_and_gradient_at_logits_of_100(name: str) -> None:
    """By hand: two voxels of lesion at -100, two without at 100. Each costs 100; Dice is that of nothing right."""
    builder = Builder("sure")
    x = builder.add("logits", pointwise(1, 2), builder.add("image", Input((2, 2, 1))))
    graph = builder.graph(builder.add("out", Sigmoid(), x))
    weights = {
        ("logits", "kernel"): np.full((1, 1, 1, 1), 100, np.float32),
        ("logits", "bias"): np.zeros(1, np.float32),
    }
    backend = compiled(name, graph, make_loss("bce_dice"), weights)
    masks = np.array([1, 1, 0, 0], np.float32).reshape(1, 2, 2, 1)
    wrong, right = 1 - 2 * masks, 2 * masks - 1
    traced = backend.trace(wrong, masks, [])
    assert traced.loss == pytest.approx(100 + 1 - 1 / 5, rel=1e-6)
    # By the kernel: the mean of (p - t) times the image, (0 - 1) * -1 or (1 - 0) * 1 of every voxel; by the bias 0.
    assert traced.gradients["logits", "kernel"].ravel() == pytest.approx([1.0])
    assert traced.gradients["logits", "bias"] == pytest.approx([0.0], abs=1e-6)
    assert backend.evaluate_step(right, masks).loss == pytest.approx(0, abs=1e-6)
    result = backend.train_step(wrong, masks)
    assert np.allclose(result.probability.ravel(), [0, 0, 1, 1], atol=1e-6)
    assert backend.evaluate_step(wrong, masks).loss < traced.loss


def test_bce_dice_of_a_network_without_a_sigmoid_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="loss bce_dice needs a network that ends in a sigmoid"):
        compiled(name, map_of(3), make_loss("bce_dice"))


@pytest.mark.parametrize(
    ("graph", "loss", "problem"),
    [
        (map_of(3), make_loss("weighted_ce", class_weights=(0.05, 0.95)), "2 class weights, the output 3 classes"),
        (map_of(1), make_loss("weighted_ce"), "0 class weights, the output 2 classes"),
        (map_of(1), make_loss("categorical_ce"), "2 classes or more"),
        (map_of(1), make_loss("ce_dice"), "2 classes or more"),
        (patches(), make_loss("ce_dice"), "a map of logits"),
        (heads((1, 1, 1), (2, 2, 1)), make_loss("ce_dice"), "1 level weights, the network 2 outputs"),
        (heads((2, 2, 1), (1, 1, 1)), make_loss("ce_dice", level_weights=(0.5, 0.5)), "whole fractions"),
        (heads((1, 1, 1), (2, 2, 1)), make_loss("categorical_ce"), "one output, the network has 2"),
    ],
    ids=lambda value: value.name if isinstance(value, Graph | Loss) else None,
)
def test_a_loss_that_does_not_fit_the_outputs_is_refused_in_one_line(
    name: str, graph: Graph, loss: Loss, problem: str
) -> None:
    with pytest.raises(ConfigError, match=f"loss {loss.name} .*{problem}") as caught:
        compiled(name, graph, loss)
    assert "\n" not in str(caught.value)
