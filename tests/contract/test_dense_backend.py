"""Dense tiles on a backend: the operations that only they have, and the probabilities of patches."""

from __future__ import annotations

import numpy as np
import pytest

from mspipeline.backends.base import Backend, Execution
from mspipeline.backends.registry import create
from mspipeline.channels import channels_of
from mspipeline.models.catalogue import build
from mspipeline.network.graph import Builder, Graph
from mspipeline.network.ops import Conv, Input
from mspipeline.network.ops.tiling import Crop, JoinPhases, SplitPhases, Subtract
from mspipeline.network.weights import Weights
from mspipeline.recipes.patches3d.cascade import predict_patches
from mspipeline.recipes.patches3d.voxelwise import Inference, VoxelNetwork
from tests.contract.reference_operations import conv, forward

EXECUTION = Execution(device="cpu", threads=2)
NO_PADDING = ((0, 0), (0, 0), (0, 0))


def built(name: str, graph: Graph, weights: Weights) -> Backend:
    backend = create(name)
    backend.build(graph, EXECUTION)
    backend.set_weights(weights)
    return backend


def test_a_convolution_between_phases_is_a_dilated_one(name: str) -> None:
    """Twelve images of a batch each, of which the last two voxels along x are short of a neighbour."""
    builder, stride = Builder("phased"), (2, 3, 2)
    x = builder.add("split", SplitPhases(stride), builder.add("image", Input((8, 6, 10, 2))))
    x = builder.add("conv", Conv(3, (2, 1, 3), (1, 1, 1), (1, 1, 1), NO_PADDING, bias=True), x)
    joined = builder.add("join", JoinPhases(stride), x)
    cropped = [builder.add(f"crop{x}", Crop((x, 0, 1), (5, 6, 4)), joined) for x in (0, 1)]
    graph = builder.graph(builder.add("less", Subtract(), *cropped))
    if create(name).unsupported(graph):
        pytest.skip(f"{name} has no dense inference")
    random = np.random.default_rng(2)
    weights = {key: random.normal(0, 1, spec.shape).astype("f4") for key, spec in graph.weights().items()}
    images = random.normal(0, 1, (2, 8, 6, 10, 2)).astype("f4")
    dilated = Conv(3, (2, 1, 3), (1, 1, 1), stride, NO_PADDING, bias=True)
    given = {key: weights["conv", key].astype(float) for key in ("kernel", "bias")}
    for image, found in zip(images, built(name, graph, weights).predict(images), strict=True):
        whole = conv(dilated, image.astype(float), given)
        assert np.allclose(found, whole[:5, :, 1:5] - whole[1:6, :, 1:5], rtol=1e-5, atol=2e-6)


def test_dense_probabilities_are_those_of_patches_and_of_numpy(name: str) -> None:
    """A backend without what dense tiles need answers by patches."""
    graph = build("cascade3d", (11, 11, 11, 2), {"base_width": 2})
    random = np.random.default_rng(6)
    weights = {}
    for key, spec in graph.weights().items():
        values = random.normal(0, np.sqrt(3 / np.prod(spec.shape[:-1])) if key[1] == "kernel" else 0.3, spec.shape)
        weights[key] = (abs(values) + 0.5 if key[1] in ("variance", "gamma") else values).astype("f4")
    image = random.normal(0, 2, (9, 12, 7, 2)).astype("f4")
    places = np.argwhere(np.ones(image.shape[:3], bool))
    backend = built(name, graph, weights)
    patches = predict_patches(backend, channels_of(graph, ()), image, places, (11, 11, 11), batch_size=126)
    how: Inference = "auto" if name == "pyeddl" else "dense"
    found = VoxelNetwork(backend, graph, EXECUTION, inference=how, memory_budget_mb=150)
    dense = found.predict(image, places, batch_size=126)
    assert np.ptp(patches) > 0.02
    assert np.abs(dense - patches).max() < 1e-5
    padded = np.pad(image, [(5, 5)] * 3 + [(0, 0)])
    for place in (0, 300, len(places) - 1):
        x, y, z = places[place]
        exact = forward(graph, weights, padded[x : x + 11, y : y + 11, z : z + 11])["probability"]
        assert dense[place] == pytest.approx(exact[1], abs=1e-5)
