"""Stages over candidates, with networks small enough to compute by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mspipeline.backends.base import Backend, Execution
from mspipeline.backends.registry import create
from mspipeline.channels import ONE_PROBABILITY, Channels
from mspipeline.errors import Preempted, ShapeError
from mspipeline.labels import LESIONS
from mspipeline.network.blocks import same_padding
from mspipeline.network.graph import Builder
from mspipeline.network.ops import Conv, Dense, Flatten, Input, Sigmoid, Softmax
from mspipeline.patches.candidates import Coordinates
from mspipeline.recipes.patches3d.cascade import predict_cascade, predict_patches
from mspipeline.recipes.patches3d.voxelwise import VoxelNetwork
from mspipeline.volume import FloatArray

pytestmark = pytest.mark.usefixtures("backend_needed")

SIZE = (3, 3, 3)
CENTRE = 13
"""Place of the middle voxel among the 27 of a patch."""


def linear(kernel: npt.NDArray[np.float32], bias: float = 0.0, *, last: str = "none") -> Backend:
    """A network that gives `kernel` times the patch plus `bias`: as it is, through a sigmoid, or a softmax over two."""
    builder = Builder("linear")
    x = builder.add("flat", Flatten(), builder.add("image", Input((*SIZE, 1))))
    x = builder.add("sum", Dense(2 if last == "softmax" else 1, bias=True), x)
    if last != "none":
        x = builder.add("probability", Sigmoid() if last == "sigmoid" else Softmax(), x)
    columns = kernel.reshape(27, 1)
    weights = {("sum", "kernel"): columns, ("sum", "bias"): np.array([bias], np.float32)}
    if last == "softmax":  # the difference of the two logits is that of the sigmoid
        weights = {
            ("sum", "kernel"): np.hstack([columns, 2 * columns]),
            ("sum", "bias"): np.array([0, bias], np.float32),
        }
    backend = create("tensorflow")
    backend.build(builder.graph(x), Execution(threads=2))
    backend.set_weights(weights)
    return backend


class Stage:
    """A network that answers patch by patch; what it gives is taken for the probability as it is."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def predict(
        self, image: FloatArray, centres: Coordinates, *, batch_size: int, threads: int = 1, report: Any = None
    ) -> FloatArray:
        return predict_patches(
            self._backend,
            ONE_PROBABILITY,
            image,
            centres,
            SIZE,
            batch_size=batch_size,
            threads=threads,
            report=report,
        )


def centre_voxel() -> Stage:
    """A network whose probability is the value of the voxel itself."""
    kernel = np.zeros(27, np.float32)
    kernel[CENTRE] = 1
    return Stage(linear(kernel))


@pytest.fixture
def image() -> FloatArray:
    return np.random.default_rng(1).random((6, 5, 4, 1), np.float32)


def everywhere(image: FloatArray) -> npt.NDArray[np.int64]:
    return np.argwhere(np.ones(image.shape[:3], bool))


def test_a_probability_is_written_where_its_patch_was_centred(image: FloatArray) -> None:
    found = predict_cascade([centre_voxel()], image, everywhere(image), pass_above=0.8, batch_size=7)
    assert np.array_equal(found, image[..., 0])


@pytest.mark.parametrize("last", ["sigmoid", "softmax"])
def test_probabilities_are_those_of_zero_padded_patches(image: FloatArray, last: str) -> None:
    kernel = np.random.default_rng(2).standard_normal(27).astype(np.float32)
    channels = ONE_PROBABILITY if last == "sigmoid" else Channels(LESIONS, LESIONS.names)
    network = linear(kernel, 0.25, last=last)
    found = predict_patches(network, channels, image, everywhere(image), SIZE, batch_size=50)
    padded = np.pad(image[..., 0], 1)
    sums = [kernel @ padded[x : x + 3, y : y + 3, z : z + 3].reshape(27) + 0.25 for x, y, z in everywhere(image)]
    assert np.abs(found - 1 / (1 + np.exp(-np.array(sums)))).max() < 1e-6


def test_the_second_stage_sees_what_the_first_gave_more_than_the_limit_and_decides() -> None:
    image = np.zeros((4, 4, 4, 1), np.float32)
    limit = np.float32(0.8)
    image[1, 1, 1], image[1, 1, 2], image[2, 3, 0], image[3, 3, 3] = (
        limit,
        np.nextafter(limit, np.float32(1)),
        0.95,
        0.99,
    )
    sees: list[tuple[int, int, int]] = []
    brighter_with_x = np.zeros((3, 3, 3), np.float32)
    brighter_with_x[1, 1, 1] = 0.5
    found = predict_cascade(
        [centre_voxel(), Stage(linear(brighter_with_x))],
        image,
        np.array([[1, 1, 1], [1, 1, 2], [2, 3, 0]]),
        pass_above=0.8,
        batch_size=2,
        report=lambda *done: sees.append(done),
    )
    expected = np.zeros((4, 4, 4), np.float32)
    expected[1, 1, 2], expected[2, 3, 0] = image[1, 1, 2, 0] / 2, np.float32(0.95) / 2
    assert np.array_equal(found, expected)
    assert sees == [(1, 2, 3), (1, 3, 3), (2, 2, 2)]


@pytest.mark.parametrize("batch_size", [1, 7, 120, 1000])
def test_neither_batches_nor_threads_change_a_bit(image: FloatArray, batch_size: int) -> None:
    stages = [Stage(linear(np.full(27, 0.1, np.float32))), centre_voxel()]
    one, other = (
        predict_cascade(stages, image, everywhere(image), pass_above=0.5, batch_size=n, threads=threads)
        for n, threads in ((13, 1), (batch_size, 3))
    )
    assert 0 < np.count_nonzero(one) < one.size
    assert np.allclose(one, other, atol=1e-6)


def test_no_candidates_and_none_that_pass_give_an_empty_map(image: FloatArray) -> None:
    none = np.empty((0, 3), np.int64)
    stages = [centre_voxel(), centre_voxel()]
    assert not predict_cascade(stages, image, none, pass_above=0.8, batch_size=8).any()
    dark = everywhere(image)[image[..., 0].ravel() < 0.3]
    assert not predict_cascade(stages, image, dark, pass_above=0.8, batch_size=8).any()


def test_whoever_is_told_of_the_patches_may_stop_the_work(image: FloatArray) -> None:
    def stop(stage: int, patches: int, total: int) -> None:
        raise Preempted("enough")

    with pytest.raises(Preempted):
        predict_cascade([centre_voxel()], image, everywhere(image), pass_above=0.8, batch_size=8, report=stop)


def test_a_network_that_gives_a_mask_is_refused() -> None:
    builder = Builder("masks")
    x = builder.add("image", Input((*SIZE, 1)))
    one = (1, 1, 1)
    x = builder.add("conv", Conv(1, SIZE, one, one, same_padding(SIZE), bias=True), x)
    backend = create("tensorflow")
    graph, execution = builder.graph(x), Execution(threads=2)
    backend.build(graph, execution)
    with pytest.raises(ShapeError, match=r"gives \(3, 3, 3, 1\) after Conv, expected .*a patch, \(1,\).*\(2,\)"):
        VoxelNetwork(backend, graph, execution, inference="patches")
