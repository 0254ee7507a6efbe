from mspipeline.network.cost import cost
from mspipeline.network.graph import Builder
from mspipeline.network.ops import BatchNorm, Conv, ConvTranspose, Dense, Flatten, Input, PRelu


def test_the_cost_of_a_convolution_and_a_normalisation_by_hand() -> None:
    builder = Builder("small")
    x = builder.add("image", Input((10, 8, 3)))
    x = builder.add("conv", Conv(5, (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), bias=True), x)
    x = builder.add("norm", BatchNorm(0.9, 1e-5), x)
    total = cost(builder.graph(x))
    conv, norm = total.nodes[1:]
    assert (conv.trainable, conv.non_trainable) == (3 * 3 * 3 * 5 + 5, 0)
    assert conv.macs == 10 * 8 * 5 * 3 * 3 * 3
    assert (norm.trainable, norm.non_trainable, norm.macs) == (10, 10, 0)
    assert total.total == 140 + 20
    assert total.activation_bytes(2) == 2 * 4 * (10 * 8 * 3 + 2 * 10 * 8 * 5)


def test_the_cost_of_a_transposed_convolution_a_prelu_and_a_dense_layer_by_hand() -> None:
    builder = Builder("small")
    x = builder.add("image", Input((4, 5, 3, 2)))
    x = builder.add("up", ConvTranspose(3, (2, 2, 1), (2, 2, 1), bias=True), x)  # 8, 10, 3 voxels of 3 channels
    x = builder.add("shared", PRelu("channel", "quarter"), x)
    x = builder.add("single", PRelu("voxel", "zeros"), x)
    x = builder.add("dense", Dense(7, bias=True), builder.add("flat", Flatten(), x))
    _, up, shared, single, flat, dense = cost(builder.graph(x)).nodes
    assert (up.trainable, up.macs) == (2 * 2 * 1 * 2 * 3 + 3, (4 * 5 * 3) * (2 * 2 * 1) * 2 * 3)
    assert (shared.trainable, single.trainable, flat.trainable) == (3, 8 * 10 * 3 * 3, 0)
    assert (dense.trainable, dense.macs) == (720 * 7 + 7, 720 * 7)
