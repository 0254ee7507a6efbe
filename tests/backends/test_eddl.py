"""PyEDDL's adapter against the library itself: each fault that it meets, gone through it and, raw, still there.

Values and slopes of every operation are expected from NumPy in float64, slopes as differences of its losses.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mspipeline import losses
from mspipeline.backends.base import Execution
from mspipeline.backends.eddl.backend import EddlBackend
from mspipeline.backends.eddl.races import copies_apart, threads_meet, upsampling_is_safe
from mspipeline.backends.registry import availability
from mspipeline.errors import BackendError, ConfigError, ShapeError
from mspipeline.losses import make_loss
from mspipeline.models.catalogue import build
from mspipeline.network import ops
from mspipeline.network.graph import Builder, Graph
from mspipeline.network.weights import Weights, initial_weights
from mspipeline.optimizers import Adam

FLAT, SOLID = (6, 8, 3), (4, 6, 5, 2)
NONE = {2: ((0, 0), (0, 0)), 3: ((0, 0), (0, 0), (0, 0))}
pyeddl = pytest.mark.pyeddl


@pytest.fixture
def library() -> Any:
    """PyEDDL's own module, loaded as the adapter loads it."""
    if problem := availability("pyeddl").problem:
        pytest.skip(problem)
    from mspipeline.backends.eddl.library import load

    loaded = load()
    loaded.enter(1)
    return loaded


def raw_net(library: Any, shape: tuple[int, ...], layers: Callable[[Any, Any], Any], memory: str = "mid_mem") -> Any:
    """A network of the library's own making. layers: (eddl, input) -> output. Images are (C, *spatial) in `shape`."""
    from mspipeline.backends.eddl.library import quiet

    eddl = library.eddl
    with quiet("testing"):
        source = eddl.Input(list(shape))
        output = layers(eddl, source)
        net = eddl.Model([source], [output])
        service = eddl.CS_CPU(1, memory)
        net.build(eddl.sgd(0.0), [eddl.getLoss("mse")], [eddl.getMetric("mse")], service)
    return net, output


def raw_forward(library: Any, net: Any, images: np.ndarray, *, training: bool) -> None:
    library.eddl.set_mode(net, int(training))
    library.eddl.forward(net, [library.tensor(images)])


def graph_of(shape: tuple[int, ...], *steps: ops.Op, name: str = "tried") -> Graph:
    """One operation after the other: nodes `n0`, `n1`, ..."""
    builder = Builder(name)
    x = builder.add("image", ops.Input(shape))
    for number, op in enumerate(steps):
        x = builder.add(f"n{number}", op, x)
    return builder.graph(x)


def conv(rank: int, filters: int, *, bias: bool, kernel: int = 1) -> ops.Conv:
    ones, before = (1,) * rank, (kernel - 1) // 2
    return ops.Conv(filters, (kernel,) * rank, ones, ones, ((before, kernel - 1 - before),) * rank, bias=bias)


def random_weights(graph: Graph, seed: int = 4) -> Weights:
    rng = np.random.default_rng(seed)
    values = {key: rng.normal(0, 0.7, spec.shape) for key, spec in graph.weights().items()}
    return {key: (abs(each) + 0.2 if key[1] == "variance" else each).astype("f4") for key, each in values.items()}


def images_of(graph: Graph, count: int, seed: int = 8) -> np.ndarray:
    shape = graph.inputs[0].shape
    return np.random.default_rng(seed).normal(0.5, 1, (count, *shape)).astype(np.float32)


def compiled(
    graph: Graph,
    *,
    loss: str = "bce",
    threads: int = 1,
    memory: Any = "mid_mem",
    adam: Adam | None = None,
    seed: int = 0,
) -> EddlBackend:
    backend = EddlBackend()
    backend.build(graph, Execution(device="cpu", threads=threads, memory=memory, seed=seed))
    backend.set_weights(random_weights(graph))
    backend.compile(make_loss(loss), adam or Adam(1e-2))
    return backend


def normalised(x: np.ndarray, weights: Weights, node: str, epsilon: float) -> np.ndarray:
    """Batch normalisation in training mode, in float64."""
    axes = tuple(range(x.ndim - 1))
    scaled = (x - x.mean(axes)) / np.sqrt(x.var(axes) + epsilon)
    return np.asarray(scaled * weights[node, "gamma"] + weights[node, "beta"])


# Faults of the library, each met


@pyeddl
@pytest.mark.parametrize("shape", [FLAT, SOLID, (5,)], ids=["2-D", "3-D", "flat"])
def test_batch_normalisation_is_right_and_its_slopes_too(library: Any, shape: tuple[int, ...]) -> None:
    """The library has only two spatial axes, lets the variance begin at 0, and divides slopes by the voxels."""
    graph = graph_of(shape, ops.BatchNorm(0.8, 1e-2), ops.Sigmoid())
    backend, images = compiled(graph), images_of(graph, 3)
    weights = {key: value.astype(float) for key, value in backend.weights().items()}
    truth = (images > 0.5).astype(np.float32)
    traced = backend.trace(images, truth, ["n0"])

    def loss_with(key: tuple[str, str], change: np.ndarray) -> float:
        z = normalised(images.astype(float), weights | {key: weights[key] + change}, "n0", 1e-2)
        return losses.bce(truth, 1 / (1 + np.exp(-z)))

    assert traced.loss == pytest.approx(loss_with(("n0", "beta"), np.zeros(shape[-1])), rel=1e-5)
    for key, gradient in traced.gradients.items():
        for channel, step in enumerate(1e-5 * np.eye(shape[-1])):
            slope = (loss_with(key, step) - loss_with(key, -step)) / 2e-5
            assert gradient[channel] == pytest.approx(slope, rel=1e-3, abs=1e-6)
    scaled = (images - weights["n0", "mean"]) / np.sqrt(weights["n0", "variance"] + 1e-2)
    expected = scaled * weights["n0", "gamma"] + weights["n0", "beta"]
    assert np.allclose(traced.activations["n0"], expected, atol=1e-5)
    backend.train_step(images, truth)
    axes = tuple(range(images.ndim - 1))
    assert np.allclose(
        backend.weights()["n0", "mean"], 0.8 * weights["n0", "mean"] + 0.2 * images.mean(axes), atol=1e-5
    )


@pyeddl
def test_the_librarys_own_normalisation_of_three_axes_is_wrong(library: Any) -> None:
    net, output = raw_net(library, (2, 4, 6, 5), lambda eddl, x: eddl.BatchNormalization(x, True))
    images = np.random.default_rng(0).normal(3, 1, (2, 2, 4, 6, 5))
    raw_forward(library, net, images, training=True)
    axes = (0, 2, 3, 4)
    expected = (images - images.mean(axes, keepdims=True)) / images.std(axes, keepdims=True)
    with np.errstate(all="ignore"):  # it leaves some of its result as the memory was
        assert not np.allclose(np.array(output.output), expected, atol=0.1)


@pyeddl
def test_a_running_variance_begins_at_one(library: Any) -> None:
    backend = EddlBackend()
    backend.build(graph_of(FLAT, ops.BatchNorm(0.9, 1e-5)), Execution(device="cpu"))
    assert np.array_equal(backend.weights()["n0", "variance"], np.ones(3))
    assert np.array_equal(backend.weights()["n0", "mean"], np.zeros(3))
    _net, output = raw_net(library, (3, 4, 4), lambda eddl, x: eddl.BatchNormalization(x, True))
    assert np.array_equal(np.asarray(output.params[3]), np.zeros(3))


@pyeddl
def test_a_3d_convolution_has_its_bias(library: Any) -> None:
    graph = graph_of(SOLID, conv(3, 3, bias=True, kernel=3), ops.Sigmoid())
    backend, images = compiled(graph), images_of(graph, 2)
    truth = (np.random.default_rng(1).random((2, 4, 6, 5, 3)) > 0.5).astype(np.float32)
    weights = backend.weights()
    weights["n0", "kernel"] *= 0.1
    backend.set_weights(weights)
    before = backend.trace(images, truth, ["n0", "n1"])
    expected = np.mean(before.activations["n1"] - truth, axis=(0, 1, 2, 3)) / 3
    assert np.allclose(before.gradients["n0", "bias"], expected, atol=1e-6)
    backend.set_weights(weights | {("n0", "bias"): weights["n0", "bias"] + 2})
    after = backend.trace(images, truth, ["n0"]).activations["n0"]
    assert np.allclose(after, before.activations["n0"] + 2, atol=1e-5)


@pyeddl
def test_the_librarys_own_3d_convolution_ignores_its_bias(library: Any) -> None:
    net, output = raw_net(library, (1, 3, 3, 3), lambda eddl, x: eddl.Conv3D(x, 2, [1, 1, 1], [1, 1, 1], "same", True))
    np.asarray(output.params[1])[...] = 7
    raw_forward(library, net, np.zeros((1, 1, 3, 3, 3)), training=False)
    assert np.array_equal(np.array(output.output), np.zeros((1, 2, 3, 3, 3)))


@pyeddl
@pytest.mark.parametrize("memory", ["low_mem", "mid_mem", "full_mem"])
@pytest.mark.parametrize("model", ["unet2d", "cascade3d"])
def test_a_changing_batch_gives_the_slopes_of_a_new_network(library: Any, model: str, memory: str) -> None:
    shape = (16, 16, 1) if model == "unet2d" else (11, 11, 11, 3)
    graph = build(model, shape, {"base_width": 2} if model == "unet2d" else {})
    loss, outputs = ("bce", (16, 16, 1)) if model == "unet2d" else ("categorical_ce", (2,))
    rng = np.random.default_rng(0)
    backend = compiled(graph, loss=loss, memory=memory)
    for count in (4, 2, 3):
        images = images_of(graph, count)
        masks = (rng.random((count, *outputs)) > 0.5).astype(np.float32)
        if model == "cascade3d":
            masks = np.eye(2, dtype=np.float32)[np.arange(count) % 2]
        backend.predict(images[:1])
        again = compiled(graph, loss=loss)
        again.set_state(backend.state())
        again.set_weights(backend.weights())
        first, second = backend.trace(images, masks, []), again.trace(images, masks, [])
        assert first.loss == second.loss
        assert all(np.array_equal(first.gradients[key], second.gradients[key]) for key in second.gradients)
        backend.train_step(images, masks)


@pyeddl
def test_threads_do_not_meet_in_one_channels_statistics(library: Any) -> None:
    """One channel with two threads: the library alone is wrong by 0.1 wherever both run at once."""
    graph = graph_of((512, 512, 1), ops.BatchNorm(0.9, 1e-5), ops.Sigmoid())
    backend, images = compiled(graph, threads=2), images_of(graph, 4)
    weights = backend.weights()
    expected = normalised(images.astype(float), weights, "n0", 1e-5)
    for _ in range(6):
        probability = backend.train_step(images, (images > 0).astype(np.float32)).probability
        backend.set_weights(weights)
        assert np.allclose(probability, 1 / (1 + np.exp(-expected)), atol=1e-3)  # it sums 2^20 values in float32


@pyeddl
def test_channels_are_repeated_until_every_thread_has_whole_ones(library: Any) -> None:
    from mspipeline.backends.eddl.layers import realise
    from mspipeline.backends.eddl.library import quiet

    graph = graph_of((64, 64, 1), ops.BatchNorm(0.9, 1e-5))
    with quiet("testing"):
        slots = [realise(library.eddl, graph, threads).slots["n0", "gamma"] for threads in (1, 2, 8)]
    assert [np.asarray(slot.layer.params[slot.index]).size for slot in slots] == [1, 2, 8]
    assert [slot.values.size for slot in slots] == [1, 1, 1]


@pyeddl
def test_where_threads_would_meet_for_good_one_trains_and_says_why(
    library: Any, caplog: pytest.LogCaptureFixture
) -> None:
    compiled(graph_of((37, 41, 1), ops.BatchNorm(0.9, 1e-5)), threads=2)
    assert "training with one thread" in caplog.text
    assert "node=n0" in caplog.text
    caplog.clear()
    compiled(graph_of((32, 32, 1), ops.BatchNorm(0.9, 1e-5)), threads=2)
    assert caplog.text == ""


def test_threads_meet_as_openmp_deals() -> None:
    """By counting: 10 iterations to 4 threads are runs of 3, 3, 2, 2, so they begin at 3, 6 and 8."""
    assert [unit for unit in range(1, 11) if not threads_meet(10, 4, unit)] == [1]
    assert not threads_meet(12, 4, 3)
    assert copies_apart(1, 256 * 256, 64) == 64
    assert copies_apart(3, 1, 64) == 1
    assert copies_apart(5, 37 * 41, 8) is None
    assert upsampling_is_safe(6, 5, 3)
    assert not upsampling_is_safe(5, 5, 3)


@pyeddl
def test_a_network_sets_the_threads_of_its_own_calls(library: Any) -> None:
    code = """
import ctypes, sys
from mspipeline.backends.eddl.library import load
seen = []
for threads in (2, 1, 3):
    load().enter(threads)
    seen.append(ctypes.CDLL(sys.modules["pyeddl._core"].__file__).omp_get_max_threads())
print(seen)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[2, 1, 3]"


@pyeddl
def test_adam_adds_epsilon_outside_the_root(library: Any) -> None:
    """The library's own first step for a slope of 1e-4 is a tenth of the learning rate: epsilon 1e-6 is in the root."""
    graph = graph_of((4, 4, 1), conv(2, 1, bias=True), ops.Sigmoid())
    backend = compiled(graph, adam=Adam(0.1, epsilon=1e-4))
    images, masks = images_of(graph, 2), np.zeros((2, 4, 4, 1), np.float32)
    weights, gradients = backend.weights(), backend.trace(images, masks, []).gradients
    backend.train_step(images, masks)
    for key, gradient in gradients.items():
        expected = weights[key] - 0.1 * gradient / (abs(gradient) + 1e-4)
        assert np.allclose(backend.weights()[key], expected, atol=1e-6)


@pyeddl
def test_a_state_from_when_adam_was_the_adapters_own_is_taken(library: Any) -> None:
    """Its moments were called `mean` and `square` then."""
    graph = graph_of((4, 4, 1), conv(2, 1, bias=True), ops.Sigmoid())
    backend, other = compiled(graph), compiled(graph)
    backend.train_step(images_of(graph, 2), np.zeros((2, 4, 4, 1), np.float32))
    names = {"optimizer/momentum/": "optimizer/mean/", "optimizer/velocity/": "optimizer/square/"}
    old = {}
    for key, values in backend.state().items():
        name = next((name for name in names if key.startswith(name)), "")
        old[names.get(name, "") + key.removeprefix(name)] = values
    assert old.keys() != backend.state().keys()
    other.set_state(old)
    assert all(np.array_equal(other.state()[key], values) for key, values in backend.state().items())


@pyeddl
def test_the_librarys_own_adam_has_it_inside_and_its_loss_adds_up_over_pixels(library: Any) -> None:
    """sigmoid(0) against 1/2 - 1e-4 in 400 pixels: the slope of the bias is 400e-4, or 1e-4 of a mean."""
    from mspipeline.backends.eddl.library import quiet

    eddl = library.eddl
    with quiet("testing"):
        source = eddl.Input([1, 20, 20])
        layer = eddl.Conv2D(source, 1, [1, 1])
        net = eddl.Model([source], [eddl.Sigmoid(layer)])
        metrics, service = [eddl.getMetric("mse")], eddl.CS_CPU(1, "mid_mem")
        net.build(eddl.adam(0.1, 0.9, 0.999, 1.0), [eddl.getLoss("binary_cross_entropy")], metrics, service)
    for parameter in layer.params:
        np.asarray(parameter)[...] = 0
    eddl.reset_loss(net)
    images, truth = np.zeros((2, 1, 20, 20)), np.full((2, 1, 20, 20), 0.4999)
    eddl.train_batch(net, [library.tensor(images)], [library.tensor(truth)], [0, 1])
    assert eddl.get_losses(net)[0] == pytest.approx(400 * np.log(2), rel=1e-4)
    assert np.asarray(layer.params[1])[0] == pytest.approx(-0.1 * 0.04 / np.sqrt(0.04**2 + 1), rel=1e-3)


@pyeddl
def test_a_product_repeats_axes_of_one(library: Any) -> None:
    builder = Builder("gates")
    x = builder.add("image", ops.Input(SOLID))
    gate = builder.add("gate", conv(3, 1, bias=False), x)
    scale = builder.add("scale", ops.GlobalAverage(keep_axes=True), x)
    graph = builder.graph(builder.add("product", ops.Multiply(), x, gate, scale))
    backend = EddlBackend()
    backend.build(graph, Execution(device="cpu"))
    backend.set_weights({("gate", "kernel"): np.array([2.0, -1.0], np.float32).reshape(1, 1, 1, 2, 1)})
    images = images_of(graph, 3)
    gated = images * (2 * images[..., :1] - images[..., 1:]) * images.mean((1, 2, 3), keepdims=True)
    assert np.allclose(backend.predict(images), gated, atol=1e-5)


@pyeddl
def test_the_librarys_own_product_wants_equal_shapes(library: Any, capfd: pytest.CaptureFixture[str]) -> None:
    net, _ = raw_net(library, (3, 4, 4), lambda eddl, x: eddl.Mult(x, eddl.Conv2D(x, 1, [1, 1])))
    with pytest.raises(RuntimeError, match="el_mult"):
        raw_forward(library, net, np.zeros((1, 3, 4, 4)), training=False)


@pyeddl
@pytest.mark.parametrize("loss", ["bce", "dice"])
def test_a_loss_does_not_grow_with_the_image(library: Any, loss: str) -> None:
    """The library's cross-entropy is a sum over pixels, and garbage until it is reset: its value is never asked."""
    small, large = graph_of((4, 4, 1), ops.Sigmoid()), graph_of((64, 64, 1), ops.Sigmoid())
    values = []
    for graph in (small, large):
        probability = np.full((2, *graph.inputs[0].shape), np.log(3), np.float32)  # sigmoid: 3/4
        result = compiled(graph, loss=loss).evaluate_step(probability, np.ones_like(probability))
        values.append(result.loss)
    if loss == "bce":
        assert values == pytest.approx([np.log(4 / 3)] * 2, rel=1e-6)
    else:
        count = np.array([32, 8192])
        assert values == pytest.approx(1 - (1.5 * count + 1) / (1.75 * count + 1), rel=1e-6)


@pyeddl
def test_asymmetric_padding_is_zeros_where_the_graph_wants_them(library: Any) -> None:
    op = ops.Conv(1, (2, 2), (1, 1), (1, 1), ((1, 0), (0, 1)), bias=False)
    backend, image = EddlBackend(), np.arange(1, 7, dtype=np.float32).reshape(1, 2, 3, 1)
    backend.build(graph_of((2, 3, 1), op), Execution(device="cpu"))
    backend.set_weights({("n0", "kernel"): np.array([[1, 10], [100, 1000]], np.float32).reshape(2, 2, 1, 1)})
    expected = [[2100, 3200, 300], [5400 + 21, 6500 + 32, 600 + 3]]
    assert np.array_equal(backend.predict(image)[0, ..., 0], expected)
    with pytest.raises(BackendError, match="Padding asymmetry detected"):
        raw_net(library, (1, 4, 4), lambda eddl, x: eddl.Conv2D(x, 1, [2, 2], [1, 1], "same"))


@pyeddl
def test_dropout_is_the_seeds_and_goes_on_from_a_state(library: Any) -> None:
    graph = graph_of((20, 30, 1), ops.Dropout(0.25))
    images = np.full((2, 20, 30, 1), 0.3, np.float32)

    def masks(backend: EddlBackend, steps: int) -> list[np.ndarray]:
        return [backend.train_step(images, images).probability for _ in range(steps)]

    first, same, other = (compiled(graph, seed=seed) for seed in (1, 1, 2))
    drawn = masks(first, 3)
    assert np.allclose(np.unique(drawn[0]), [0, 0.4])
    assert np.mean(drawn[0] == 0) == pytest.approx(0.25, abs=0.05)
    assert not np.array_equal(drawn[0], drawn[1])
    assert np.array_equal(drawn, masks(same, 3))
    assert not np.array_equal(drawn, masks(other, 3))
    state = first.state()
    later = masks(first, 2)
    resumed = compiled(graph, seed=1)
    resumed.set_state(state)
    resumed.trace(images, images, [])
    assert np.array_equal(masks(resumed, 2), later)
    assert np.array_equal(resumed.predict(images), images)
    assert EddlBackend.resumes_exactly(graph)


@pyeddl
def test_tracing_changes_nothing(library: Any) -> None:
    graph = build("unet2d", (16, 16, 1), {"base_width": 2})
    backend, images = compiled(graph), images_of(graph, 2)
    masks = (images > 0.5).astype(np.float32)
    backend.train_step(images, masks)
    weights, state = backend.weights(), backend.state()
    traced = backend.trace(images, masks, [node.name for node in graph])
    after, state_after = backend.weights(), backend.state()
    assert all(np.array_equal(after[key], weights[key]) for key in weights)
    assert all(np.array_equal(state_after[key], state[key]) for key in state)
    assert {name: values.shape for name, values in traced.activations.items()} == {
        node.name: (2, *node.shape) for node in graph
    }
    assert traced.gradients.keys() == {key for key, spec in graph.weights().items() if spec.trainable}


# What it refuses


def test_what_eddl_cannot_do_is_named_with_the_reason_before_it_is_loaded() -> None:
    code = """
import sys
from mspipeline.backends.eddl.backend import EddlBackend
from mspipeline.models.catalogue import build
print(EddlBackend.unsupported(build("double_unet", (256, 256, 1), {})))
assert "pyeddl" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "aspp1_conv2 (Conv)" in done.stdout
    assert "its convolution has no dilation on a CPU" in done.stdout
    assert "dec1_4_up (Resize)" in done.stdout
    assert "it resizes by the nearest neighbour alone" in done.stdout


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        (ops.Conv(1, (3, 3), (1, 1), (2, 2), ((2, 2), (2, 2)), bias=False), "no dilation"),
        (ops.ConvTranspose(1, (3, 3), (2, 2), bias=False), "no transposed convolution"),
        (ops.AveragePool((2, 2), (2, 2), NONE[2], ceil=True), "what hangs over the end"),
        (ops.Resize((12, 14), "bilinear", align_corners=False), "nearest neighbour alone"),
    ],
)
def test_each_refusal_has_its_reason(op: ops.Op, reason: str) -> None:
    with pytest.raises(BackendError, match=rf"cannot realise tried: n0 \({type(op).__name__}\): .*{reason}"):
        EddlBackend.check(graph_of((7, 7, 1), op))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("unet2d", (256, 256, 1)),
        ("double_unet_report_eddl", (256, 256, 1)),
        ("cascade3d", (11, 11, 11, 3)),
        ("nicms", (11, 11, 11, 2)),
        ("vnet", (32, 32, 32, 1)),
        ("nnunet3d", (64, 64, 64, 1)),
    ],
)
def test_these_networks_are_realised_whole(name: str, shape: tuple[int, ...]) -> None:
    assert EddlBackend.unsupported(build(name, shape, {})) == []


@pyeddl
def test_wrong_shapes_are_said_before_they_reach_the_library(library: Any) -> None:
    backend = compiled(graph_of(FLAT, ops.Sigmoid()))
    good = np.zeros((2, *FLAT), np.float32)
    for images in (good[:0], good[:, :5], good[..., :2], good[0]):
        with pytest.raises(ShapeError, match=r"tried takes images \(N, 6, 8, 3\)"):
            backend.predict(images)
    with pytest.raises(ShapeError, match=r"tried takes masks \(2, 6, 8, 3\)"):
        backend.train_step(good, good[:1])


@pyeddl
def test_a_gpu_and_training_unasked_for_are_refused(library: Any) -> None:
    graph = graph_of(FLAT, ops.Sigmoid())
    backend = EddlBackend()
    with pytest.raises(BackendError, match="sees no GPU here: this build of EDDL computes on the CPU"):
        backend.build(graph, Execution(device="gpu"))
    backend.build(graph, Execution(device="auto"))
    assert backend.device == "CPU"
    with pytest.raises(BackendError, match="built for prediction alone"):
        backend.train_step(np.zeros((1, *FLAT), np.float32), np.zeros((1, *FLAT), np.float32))


@pyeddl
def test_several_outputs_take_the_loss_that_is_meant_for_them(library: Any) -> None:
    builder = Builder("heads")
    x = builder.add("image", ops.Input((4, 4, 2)))
    coarse = builder.add("coarse", ops.MaxPool((2, 2), (2, 2), NONE[2], ceil=False), x)
    graph = builder.graph(
        builder.add("fine", conv(2, 2, bias=True), x), builder.add("head", conv(2, 2, bias=True), coarse)
    )
    backend, images = EddlBackend(), images_of(graph, 3)
    backend.build(graph, Execution(device="cpu"))
    with pytest.raises(ConfigError, match="one output"):
        backend.compile(make_loss("categorical_ce"), Adam(0.1))
    backend.set_weights(random_weights(graph))
    backend.compile(make_loss("ce_dice", level_weights=(0.7, 0.3)), Adam(0.1))
    masks = np.eye(2, dtype=np.float32)[np.random.default_rng(0).integers(0, 2, (3, 4, 4))]
    traced = backend.trace(images, masks, ["fine", "head"])
    logits = [traced.activations[name] for name in ("fine", "head")]
    assert traced.loss == pytest.approx(losses.ce_dice(masks, logits, (0.7, 0.3)), rel=1e-6)
    slopes = losses.ce_dice_gradient(masks, logits, (0.7, 0.3))
    for node, slope in zip(("fine", "head"), slopes, strict=True):
        assert np.allclose(traced.gradients[node, "bias"], slope.sum((0, 1, 2)), atol=1e-6)


# The process


@pyeddl
def test_nothing_is_printed_while_it_builds_trains_and_predicts(library: Any) -> None:
    code = """
import numpy as np
from mspipeline.backends.base import Execution
from mspipeline.losses import make_loss
from mspipeline.optimizers import Adam
from mspipeline.backends.eddl.backend import EddlBackend
from mspipeline.models.catalogue import build
for name, shape in (("unet2d", (16, 16, 1)), ("cascade3d", (11, 11, 11, 3))):
    graph = build(name, shape, {"base_width": 2} if name == "unet2d" else {})
    backend = EddlBackend()
    backend.build(graph, Execution(device="cpu"))
    backend.compile(make_loss("dice"), Adam(1e-3))
    for count in (2, 3):
        images = np.zeros((count, *shape), np.float32)
        masks = np.zeros((count, *graph[graph.outputs[0]].shape), np.float32)
        backend.train_step(images, masks), backend.evaluate_step(images, masks), backend.predict(images)
        backend.trace(images, masks, [])
    del backend
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert done.stderr == ""


@pyeddl
def test_an_error_of_the_library_is_one_line_with_what_it_printed(
    library: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    from mspipeline.backends.eddl.library import quiet

    with (
        pytest.raises(BackendError, match=r"EDDL failed while testing: .*Incompatible shape") as caught,
        quiet("testing"),
    ):
        library.eddl.Reshape(library.eddl.Input([3, 4]), [5])
    assert "\n" not in str(caught.value)
    out, err = capfd.readouterr()
    assert out + err == ""


@pyeddl
def test_a_forked_child_gets_an_error_and_does_not_hang(library: Any) -> None:
    """The library's threads are not in the child; left alone, it waits for them for ever."""
    code = """
import os
import numpy as np
from mspipeline.backends.base import Execution
from mspipeline.backends.eddl.backend import EddlBackend
from mspipeline.errors import BackendError
from mspipeline.network import ops
from mspipeline.network.graph import Builder
builder = Builder("forked")
graph = builder.graph(builder.add("out", ops.Sigmoid(), builder.add("image", ops.Input((64, 64, 1)))))
backend, images = EddlBackend(), np.zeros((4, 64, 64, 1), np.float32)
backend.build(graph, Execution(device="cpu", threads=2))
backend.predict(images)
if os.fork() == 0:
    try:
        backend.predict(images)
    except BackendError as error:
        os.write(1, str(error).encode())
    os._exit(0)
os.wait()
assert backend.predict(images).shape == images.shape
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "cannot be used in a process forked after it was loaded" in done.stdout


@pyeddl
@pytest.mark.parametrize("model", ["nicms", "vnet"])
def test_whole_3d_networks_learn(library: Any, model: str) -> None:
    """PReLU per voxel and channel, biases in 3-D, transposed convolutions: parts that the library has no layer for."""
    shape = (11, 11, 11, 2) if model == "nicms" else (16, 16, 16, 1)
    graph = build(model, shape, {} if model == "nicms" else {"base_width": 2})
    backend = EddlBackend()
    backend.build(graph, Execution(device="cpu"))
    backend.set_weights(initial_weights(graph, 0))
    backend.compile(make_loss("categorical_ce"), Adam(1e-3))
    images = images_of(graph, 4)
    labels = np.arange(4) % 2 if model == "nicms" else (images[..., 0] > 1).astype(int)
    masks = np.eye(2, dtype=np.float32)[labels]
    before = backend.evaluate_step(images, masks).loss
    values = [backend.train_step(images, masks).loss for _ in range(6)]
    assert np.isfinite(before)
    assert values[-1] < values[0]
