import numpy as np
import pytest

from mspipeline.errors import ShapeError
from mspipeline.models.catalogue import build
from mspipeline.network.graph import Builder
from mspipeline.network.ops import Conv, ConvTranspose, Dense, Input, InstanceNorm, Op, PRelu
from mspipeline.network.weights import begin_at, check_weights, initial_weights

GRAPH = build("unet2d", (32, 32, 1), {"base_width": 4})


def test_one_seed_gives_one_set_of_weights() -> None:
    first, again, other = (initial_weights(GRAPH, seed) for seed in (3, 3, 4))
    assert all(np.array_equal(first[key], again[key]) for key in first)
    assert not np.array_equal(first["enc1_conv1", "kernel"], other["enc1_conv1", "kernel"])


def test_kernels_are_glorot_uniform() -> None:
    kernel = initial_weights(GRAPH, 0)["bottleneck_conv2", "kernel"]  # (3, 3, 64, 64)
    limit = np.sqrt(6 / (9 * 64 + 9 * 64))
    assert np.abs(kernel).max() <= limit
    assert np.isclose(kernel.std(), limit / np.sqrt(3), rtol=0.02)
    assert abs(kernel.mean()) < 0.02 * limit


def drawn(op: Op, name: str = "kernel") -> np.ndarray:
    """A weight of one operation on an image of (8, 8, 40)."""
    builder = Builder("one")
    graph = builder.graph(builder.add("op", op, builder.add("image", Input((8, 8, 40)))))
    return initial_weights(graph, 1)["op", name]


def conv(initial: str) -> Conv:
    return Conv(50, (3, 3), (1, 1), (1, 1), ((0, 0), (0, 0)), True, initial)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("op", "variance"),
    [
        (conv("he_normal"), 2 / (9 * 40)),
        (conv("he_leaky"), 2 / 1.0001 / (9 * 40)),
        (conv("normal_0.01"), 1e-4),
        (conv("glorot_uniform"), 2 / (9 * 40 + 9 * 50)),
        (ConvTranspose(30, (4, 4), (2, 2), True, "he_leaky"), 2 / 1.0001 / (16 * 30)),  # as torch.nn.init counts
        (Dense(300, False, "he_normal"), 2 / 40),
    ],
)
def test_a_random_initial_has_its_papers_variance(op: Op, variance: float) -> None:
    kernel = drawn(op)
    assert kernel.dtype == np.float32
    assert kernel.var() == pytest.approx(variance, rel=0.05)  # at least 12,000 draws
    assert abs(kernel.mean()) < 5 * np.sqrt(variance / kernel.size)


def test_a_normal_initial_has_tails_that_a_uniform_one_lacks() -> None:
    normal, uniform = drawn(conv("he_normal")), drawn(conv("glorot_uniform"))
    assert abs(normal).max() > 3 * normal.std()
    assert abs(uniform).max() < 1.75 * uniform.std()


def test_constant_initials() -> None:
    assert (drawn(PRelu("channel", "quarter"), "alpha") == np.full(40, 0.25)).all()
    assert (drawn(PRelu("voxel", "zeros"), "alpha") == np.zeros((8, 8, 40))).all()
    assert (drawn(InstanceNorm(1e-5), "gamma") == np.ones(40)).all()
    assert (drawn(conv("he_normal"), "bias") == np.zeros(50)).all()


def test_two_kernels_of_one_shape_differ() -> None:
    weights = initial_weights(build("unet2d", (32, 32, 4), {"base_width": 4}), 0)
    assert not np.array_equal(weights["enc1_conv1", "kernel"], weights["enc1_conv2", "kernel"])


def test_normalisation_begins_as_the_identity() -> None:
    weights = initial_weights(GRAPH, 0)
    for name, value in (("gamma", 1), ("beta", 0), ("mean", 0), ("variance", 1)):
        assert (weights["enc1_conv1_bn", name] == value).all()


def test_weights_of_another_network_are_named() -> None:
    weights = initial_weights(build("unet2d", (32, 32, 1), {"base_width": 8}), 0)
    with pytest.raises(ShapeError, match=r"file\.h5: holds weights of another network .*enc1_conv1\.kernel"):
        check_weights(GRAPH, weights, source="file.h5")


def test_no_seed_begins_with_an_output_that_only_silence_can_raise() -> None:
    """The last kernel of the U-Net has two values behind a ReLU; of these seeds 3 and others drew both negative."""
    graph = build("unet2d", (16, 16, 1), {"base_width": 2})
    kernels = [initial_weights(graph, seed)["output", "kernel"] for seed in range(40)]
    assert all(kernel.shape == (1, 1, 2, 1) for kernel in kernels)
    assert all(kernel.max() > 0 for kernel in kernels)
    assert any(kernel.min() < 0 for kernel in kernels)
    assert np.abs(kernels[3]).ravel().tolist() == pytest.approx([0.6921927, 0.1903156])


@pytest.mark.parametrize(
    ("name", "node", "weight"), [("unet2d", "output_bn", "beta"), ("double_unet", "output2_conv", "bias")]
)
def test_an_output_begins_at_the_probability_asked_for(name: str, node: str, weight: str) -> None:
    graph = build(name, (32, 32, 1), {"base_width": 16})
    drawn = initial_weights(graph, 0)
    begun = begin_at(graph, drawn, 0.01)
    assert begun[node, weight].tolist() == pytest.approx([-4.59512])  # log(1 / 99)
    assert all(np.array_equal(begun[key], drawn[key]) for key in drawn if key != (node, weight))
    assert drawn[node, weight].tolist() == [0]


def test_a_softmax_begins_as_drawn() -> None:
    graph = build("cascade3d", (11, 11, 11, 2), {"base_width": 2})
    drawn = initial_weights(graph, 0)
    assert begin_at(graph, drawn, 0.01) is drawn
