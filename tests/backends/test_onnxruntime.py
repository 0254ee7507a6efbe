"""ONNX Runtime as a backend: the same numbers as TensorFlow on whole networks, and nothing but prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mspipeline.backends.base import Execution
from mspipeline.backends.onnxruntime import OnnxRuntimeBackend
from mspipeline.backends.registry import availability, create
from mspipeline.errors import BackendError, ShapeError
from mspipeline.losses import make_loss
from mspipeline.models.catalogue import build
from mspipeline.network import ops
from mspipeline.network.graph import Graph
from mspipeline.network.weights import Weights, initial_weights
from mspipeline.optimizers import Adam

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

UNET = build("unet2d", (32, 48, 2), {"base_width": 2})
NETWORKS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "unet2d": ((32, 48, 1), {"base_width": 8}),
    "double_unet": ((32, 32, 1), {"base_width": 16}),
    "cascade3d": ((11, 11, 11, 3), {}),
    "nicms": ((11, 11, 11, 2), {}),
    "deeplabv2": ((33, 33, 1), {"base_width": 4}),
    "deeplabv3": ((48, 48, 1), {"base_width": 4}),
    "vnet": ((16, 16, 16, 1), {"base_width": 4}),
    "nnunet3d": ((16, 16, 16, 1), {}),
}


def built(graph: Graph, weights: Weights | None = None) -> OnnxRuntimeBackend:
    backend = OnnxRuntimeBackend()
    backend.build(graph, Execution(device="cpu", threads=2, seed=3))
    if weights is not None:
        backend.set_weights(weights)
    return backend


def perturbed(graph: Graph) -> Weights:
    """Initial weights, those that begin as constants moved from them; variances positive."""
    rng = np.random.default_rng(4)
    weights = {}
    for key, values in initial_weights(graph, 0).items():
        moved = values if key[1] == "kernel" else (values + 0.1 * rng.standard_normal(values.shape)).astype("f4")
        weights[key] = abs(moved) if key[1] == "variance" else moved
    return weights


def images(shape: tuple[int, ...], count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, *shape), np.float32)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_whole_network_predicts_as_tensorflow(name: str) -> None:
    """Relative to the largest value: float32's rounding through a hundred layers."""
    if problem := availability("tensorflow").problem:
        pytest.skip(problem)
    shape, arguments = NETWORKS[name]
    graph = build(name, shape, arguments)
    weights, batch = perturbed(graph), images(shape)
    tensorflow = create("tensorflow")
    tensorflow.build(graph, Execution(device="cpu", threads=2))
    tensorflow.set_weights(weights)
    expected, given = tensorflow.predict(batch), built(graph, weights).predict(batch)
    assert given.shape == expected.shape == (2, *graph[graph.outputs[0]].shape)
    assert np.ptp(expected) > 1e-3
    assert np.abs(given - expected).max() <= 1e-5 * max(1.0, float(np.abs(expected).max()))


def test_it_realises_every_operation() -> None:
    every = {getattr(ops, name) for name in ops.__all__}
    known = {each for each in every if isinstance(each, type) and issubclass(each, ops.Op)} - {ops.Op}
    assert OnnxRuntimeBackend.operations == known


def test_weights_come_back_as_they_went_in_and_decide_the_prediction() -> None:
    backend, batch = built(UNET), images((32, 48, 2))
    before = backend.predict(batch)
    weights = perturbed(UNET)
    backend.set_weights(weights)
    back = backend.weights()
    assert all(np.array_equal(back[key], weights[key]) for key in weights)
    back["enc1_conv1", "kernel"][:] = 0  # a copy
    after = backend.predict(batch)
    assert not np.array_equal(before, after)
    assert np.array_equal(after, built(UNET, weights).predict(batch))
    assert np.array_equal(before, built(UNET, initial_weights(UNET, 3)).predict(batch))


def test_a_batch_may_have_any_size() -> None:
    backend, batch = built(UNET), images((32, 48, 2), 3)
    three = backend.predict(batch)
    assert three.shape == (3, 32, 48, 1)
    assert np.allclose(backend.predict(batch[:1]), three[:1], atol=1e-6)


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(ShapeError, match="another network"):
        built(UNET).set_weights(initial_weights(build("unet2d", (32, 48, 2), {"base_width": 3}), 0))


def test_it_says_that_it_predicts_only() -> None:
    backend, batch = built(UNET), images((32, 48, 2))
    masks = np.zeros((2, 32, 48, 1), np.float32)
    assert not backend.can_train
    for call in (
        lambda: backend.compile(make_loss("bce"), Adam(1e-3)),
        lambda: backend.train_step(batch, masks),
        lambda: backend.evaluate_step(batch, masks),
        lambda: backend.trace(batch, masks, ["image"]),
        backend.state,
        lambda: backend.set_state({}),
    ):
        with pytest.raises(BackendError, match="onnxruntime predicts only; train on tensorflow"):
            call()


def test_a_gpu_that_it_cannot_use_is_refused() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(BackendError, match="sees no GPU here; use --device cpu"):
        OnnxRuntimeBackend().build(UNET, Execution(device="gpu"))
    assert built(UNET).device == "CPU"
