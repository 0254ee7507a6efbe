"""Every operation on a backend: values against NumPy, gradients against differences."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from mspipeline.backends.base import Backend, Execution
from mspipeline.backends.registry import adapter, create
from mspipeline.losses import make_loss
from mspipeline.network import ops
from mspipeline.network.graph import Builder, Graph
from mspipeline.network.weights import Weights, initial_weights
from mspipeline.optimizers import Adam
from tests.contract.reference_operations import forward

NO_PADDING = {2: ((0, 0), (0, 0)), 3: ((0, 0), (0, 0), (0, 0))}
STEP = 0.001
"""Of a weight, for a difference: few values pass ReLU's kink in it, and float32's rounding of a loss stays small."""
SHAPES = {2: (7, 10, 3), 3: (5, 7, 6, 2)}

BOTH: dict[str, ops.Op] = {
    "batch_norm": ops.BatchNorm(0.9, 1e-3),
    "instance_norm": ops.InstanceNorm(0.1),
    "relu": ops.Relu(),
    "leaky_relu": ops.LeakyRelu(0.2),
    "prelu_channel": ops.PRelu("channel", "quarter"),
    "prelu_voxel": ops.PRelu("voxel", "zeros"),
    "sigmoid": ops.Sigmoid(),
    "softmax": ops.Softmax(),
    "dense": ops.Dense(4, bias=True),
    "dense_no_bias": ops.Dense(2, bias=False),
    "global_average": ops.GlobalAverage(keep_axes=False),
    "global_average_kept": ops.GlobalAverage(keep_axes=True),
    "dropout": ops.Dropout(0.5),
}
FLAT: dict[str, ops.Op] = {
    "conv_strided": ops.Conv(2, (3, 2), (2, 3), (1, 1), ((1, 1), (0, 2)), bias=True),
    "conv_dilated_same": ops.Conv(2, (3, 3), (1, 1), (2, 3), ((2, 2), (3, 3)), bias=False),
    "conv_dilated_valid": ops.Conv(2, (3, 2), (1, 1), (2, 3), NO_PADDING[2], bias=True),
    "conv_strided_dilated": ops.Conv(2, (2, 3), (2, 3), (3, 2), ((1, 2), (2, 1)), bias=True),
    "conv_even_before": ops.Conv(2, (2, 2), (1, 1), (1, 1), ((1, 0), (1, 0)), bias=True),
    "conv_even_after": ops.Conv(2, (2, 2), (1, 1), (1, 1), ((0, 1), (0, 1)), bias=True),
    "transpose_exact": ops.ConvTranspose(2, (2, 3), (2, 3), bias=True),
    "transpose_overlapping": ops.ConvTranspose(4, (3, 4), (2, 1), bias=False),
    "max_pool_rest_dropped": ops.MaxPool((2, 3), (2, 3), NO_PADDING[2], ceil=False),
    "max_pool_ceil": ops.MaxPool((3, 3), (2, 2), ((1, 1), (1, 1)), ceil=True),
    "max_pool_ceil_drops_a_window": ops.MaxPool((2, 2), (3, 3), ((1, 1), (0, 1)), ceil=True),
    "average_pool": ops.AveragePool((2, 3), (1, 2), ((1, 0), (1, 1)), ceil=False),
    "average_pool_ceil": ops.AveragePool((2, 3), (2, 2), ((0, 0), (0, 1)), ceil=True),
    "upsample": ops.Upsample((2, 3)),
    "nearest_up": ops.Resize((16, 13), "nearest", align_corners=False),
    "nearest_down": ops.Resize((3, 4), "nearest", align_corners=False),
    "bilinear_up": ops.Resize((14, 17), "bilinear", align_corners=False),
    "bilinear_down": ops.Resize((3, 4), "bilinear", align_corners=False),
    "bilinear_up_corners": ops.Resize((13, 28), "bilinear", align_corners=True),
    "bilinear_down_corners": ops.Resize((1, 4), "bilinear", align_corners=True),
}
SOLID: dict[str, ops.Op] = {
    "conv_strided": ops.Conv(2, (3, 2, 1), (2, 1, 3), (1, 1, 1), ((1, 1), (0, 1), (0, 0)), bias=True),
    "conv_dilated": ops.Conv(2, (2, 3, 2), (1, 1, 1), (2, 1, 2), ((1, 1), (1, 1), (0, 0)), bias=False),
    "conv_same": ops.Conv(2, (3, 3, 3), (1, 1, 1), (1, 1, 1), ((1, 1), (1, 1), (1, 1)), bias=True),
    "transpose_exact": ops.ConvTranspose(3, (2, 2, 1), (2, 2, 1), bias=True),
    "transpose_overlapping": ops.ConvTranspose(1, (3, 2, 2), (2, 1, 2), bias=False),
    "max_pool_rest_dropped": ops.MaxPool((2, 2, 2), (2, 2, 2), NO_PADDING[3], ceil=False),
    "max_pool_ceil": ops.MaxPool((2, 3, 3), (2, 2, 2), ((0, 0), (1, 0), (1, 1)), ceil=True),
    "average_pool_ceil": ops.AveragePool((2, 3, 2), (2, 2, 2), ((0, 0), (1, 1), (0, 0)), ceil=True),
    "upsample": ops.Upsample((2, 1, 3)),
    "nearest": ops.Resize((8, 4, 6), "nearest", align_corners=False),
    "trilinear": ops.Resize((8, 4, 9), "bilinear", align_corners=False),
    "trilinear_corners": ops.Resize((9, 3, 6), "bilinear", align_corners=True),
}


PARTS = 4
"""The slopes are taken of a quarter of the operations at a time: each takes two steps of all that is in the graph."""


@cache
def gallery(rank: int, part: int | None = None) -> Graph:
    """Each operation behind a pointwise convolution of its own, `NAME_in`; all results flattened side by side.

    part: every `PARTS`th operation alone, from this one on.
    """
    builder, flat = Builder(f"gallery{rank}d"), []
    image = builder.add("image", ops.Input(SHAPES[rank]))
    channels, ones = SHAPES[rank][-1], (1,) * rank

    def branch(name: str) -> str:
        return builder.add(name, ops.Conv(channels, ones, ones, ones, NO_PADDING[rank], bias=True), image)

    def add(name: str, op: ops.Op, *sources: str) -> None:
        flat.append(builder.add(f"{name}_flat", ops.Flatten(), builder.add(name, op, *sources)))

    one = BOTH | (FLAT if rank == 2 else SOLID)
    several = {"add": ops.Add(), "maximum": ops.Maximum(), "concat": ops.Concat(), "multiply": ops.Multiply()}
    for name, op in list((one | several).items())[part :: PARTS if part is not None else 1]:
        if name in one:
            add(name, op, branch(f"{name}_in"))
        elif name != "multiply":
            add(name, op, branch(f"{name}_in"), branch(f"{name}_in2"))
        else:
            scale = builder.add("multiply_mean", ops.GlobalAverage(keep_axes=True), branch("multiply_in"))
            gate = builder.add("multiply_gate", ops.Conv(1, ones, ones, ones, NO_PADDING[rank], bias=True), image)
            add(name, op, branch("multiply_in2"), scale, gate)
    return builder.graph(builder.add("everything", ops.Concat(), *flat))


@cache
def classifier(rank: int, part: int) -> Graph:
    """A part of `gallery` without its dropout's randomness to a single probability."""
    graph = gallery(rank, part)
    builder = Builder(f"classifier{rank}d")
    for node in graph:
        builder.add(node.name, ops.Dropout(0.0) if isinstance(node.op, ops.Dropout) else node.op, *node.inputs)
    x = builder.add("score", ops.Dense(1, bias=True), graph.outputs[0])
    return builder.graph(builder.add("probability", ops.Sigmoid(), x))


def test_the_parts_are_the_whole() -> None:
    for rank in (2, 3):
        parts = [[node.name for node in gallery(rank, part)] for part in range(PARTS)]
        assert {name for part in parts for name in part} == {node.name for node in gallery(rank)}


def random_weights(graph: Graph) -> Weights:
    """No weight at a special value; variances positive."""
    rng = np.random.default_rng(4)
    weights = {key: rng.normal(0, 0.7, spec.shape) for key, spec in graph.weights().items()}
    return {key: (abs(value) + 0.2 if key[1] == "variance" else value).astype("f4") for key, value in weights.items()}


def images(rank: int, count: int) -> np.ndarray:
    return np.random.default_rng(8).normal(0.5, 1, (count, *SHAPES[rank])).astype(np.float32)


def built(name: str, graph: Graph, weights: Weights, optimizer: Adam | None = None) -> Backend:
    if problem := adapter(name).unsupported(graph):
        pytest.skip(f"{name} has no {', '.join(problem)}")
    backend = create(name)
    backend.build(graph, Execution(device="cpu", threads=2))
    backend.set_weights(weights)
    if optimizer:
        backend.compile(make_loss("bce"), optimizer)
    return backend


def test_the_gallery_has_every_operation() -> None:
    shown = {type(node.op) for rank in (2, 3) for node in gallery(rank)}
    known = {getattr(ops, each) for each in ops.__all__}
    assert shown == {each for each in known if isinstance(each, type) and issubclass(each, ops.Op)} - {ops.Op}


@pytest.mark.parametrize("rank", [2, 3])
def test_every_operations_values_are_numpys(name: str, rank: int) -> None:
    graph, batch = gallery(rank), images(rank, 2)
    weights = random_weights(graph)
    result = built(name, graph, weights).predict(batch)
    for image, row in zip(batch, result, strict=True):
        expected, start = forward(graph, weights, image), 0
        for flat in graph["everything"].inputs:
            values = row[start : start + expected[flat].size]
            start += expected[flat].size
            assert np.allclose(values, expected[flat], rtol=1e-5, atol=2e-6), flat
        assert start == row.size


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("rank", [2, 3])
def test_every_operations_gradient_is_the_slope_of_the_loss(name: str, rank: int, part: int) -> None:
    """With an enormous epsilon Adam's first step is minus the gradient; a step's loss is from before its update."""
    graph, batch = classifier(rank, part), images(rank, 3)
    weights, truth = random_weights(graph), np.array([[1], [0], [1]], np.float32)
    weights["score", "kernel"] *= 0.02
    scores = [forward(graph, weights, image)["score"] for image in batch]
    weights["score", "bias"] -= np.mean(scores).astype(np.float32)  # keeps the probability off its ends
    backend, clear = built(name, graph, weights, Adam(1e4, epsilon=1e4)), []
    backend.train_step(batch, truth)
    moved = backend.weights()
    for key, spec in graph.weights().items():
        if not spec.trainable or key[1] == "bias":
            continue
        gradient = weights[key].astype(float) - moved[key]
        place = np.unravel_index(np.argmax(abs(gradient)), spec.shape)
        losses = []
        for step in (STEP, -STEP):
            changed = weights[key].copy()
            changed[place] += step
            backend.set_weights(weights | {key: changed})
            losses.append(backend.train_step(batch, truth).loss)
        slope = (losses[0] - losses[1]) / (2 * STEP)
        assert gradient[place] == pytest.approx(slope, rel=0.05, abs=2e-4), key
        if abs(slope) > 1e-3:
            clear.append(key[0])
    assert {node.name for node in graph if node.op.weights(graph.input_shapes(node))} - {*clear} == set()


@pytest.mark.parametrize("rank", [2, 3])
def test_of_equal_largest_voxels_one_alone_has_the_gradient(name: str, rank: int) -> None:
    """A convolution of ones on an image of ones, pooled: every voxel of a window is the largest."""
    builder, ones = Builder("ties"), (1,) * rank
    x = builder.add("image", ops.Input((4,) * rank + (1,)))
    x = builder.add("conv", ops.Conv(1, ones, ones, ones, ((0, 0),) * rank, bias=True), x)
    x = builder.add("pool", ops.MaxPool((2,) * rank, (2,) * rank, ((0, 0),) * rank, ceil=False), x)
    graph = builder.graph(builder.add("out", ops.Sigmoid(), x))
    backend = create(name)
    backend.build(graph, Execution(device="cpu", threads=2))
    kernel, bias = np.ones((*ones, 1, 1), np.float32), np.zeros(1, np.float32)
    backend.set_weights({("conv", "kernel"): kernel, ("conv", "bias"): bias})
    backend.compile(make_loss("bce"), Adam(1e-3))
    batch = np.ones((2, *(4,) * rank, 1), np.float32)
    masks = np.zeros((2, *(2,) * rank, 1), np.float32)
    gradient = backend.trace(batch, masks, ["out"]).gradients["conv", "bias"]
    assert np.allclose(gradient, 1 / (1 + np.exp(-1.0)), atol=1e-6)  # the mean's, once a window


def test_dropout_scales_what_it_keeps(name: str) -> None:
    builder, shape = Builder("dropped"), (40, 50, 2)
    x = builder.add("image", ops.Input(shape))
    x = builder.add("conv", ops.Conv(2, (1, 1), (1, 1), (1, 1), NO_PADDING[2], bias=False), x)
    graph = builder.graph(builder.add("drop", ops.Dropout(0.25), x))
    backend = built(name, graph, {("conv", "kernel"): np.eye(2, dtype=np.float32).reshape(1, 1, 2, 2)}, Adam(0.0))
    batch = np.full((1, *shape), 0.3, np.float32)
    kept = backend.train_step(batch, batch).probability != 0
    assert np.isclose(kept.mean(), 0.75, atol=0.03)  # 4000 draws: four standard deviations
    assert np.allclose(backend.train_step(batch, batch).probability.max(), 0.4)
    assert np.allclose(backend.predict(batch), 0.3)


def test_a_transposed_kernel_comes_back_as_it_went_in(name: str) -> None:
    graph = gallery(2)
    weights = initial_weights(graph, 3)
    back = built(name, graph, weights).weights()
    assert back["transpose_overlapping", "kernel"].shape == (3, 4, 3, 4)
    assert all(np.array_equal(back[key], weights[key]) for key in weights)
