import pytest

from mspipeline.errors import ConfigError, ShapeError
from mspipeline.network.graph import Builder, Node
from mspipeline.network.ops import (
    Add,
    AveragePool,
    BatchNorm,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    Dropout,
    Flatten,
    GlobalAverage,
    Input,
    InstanceNorm,
    LeakyRelu,
    Maximum,
    MaxPool,
    Multiply,
    Op,
    PRelu,
    Relu,
    Resize,
    Shape,
    Sigmoid,
    Softmax,
    Upsample,
)

NONE = ((0, 0), (0, 0))


def node(op: Op, *shapes: Shape) -> Node:
    """The operation as node `op` of graph `one`, on inputs of these shapes."""
    builder = Builder("one")
    sources = [builder.add(f"input{number}", Input(shape)) for number, shape in enumerate(shapes)]
    return builder.graph(builder.add("op", op, *sources))["op"]


@pytest.mark.parametrize(
    ("op", "shape", "result"),
    [
        (Conv(4, (3, 3), (2, 2), (1, 1), ((1, 1), (1, 1)), True), (9, 8, 2), (5, 4, 4)),
        (Conv(4, (3, 3), (1, 1), (6, 6), ((6, 6), (6, 6)), True), (9, 8, 2), (9, 8, 4)),
        (Conv(4, (7, 7), (2, 2), (1, 1), ((3, 3), (3, 3)), False), (256, 321, 1), (128, 161, 4)),
        (Conv(4, (1, 3, 3), (1, 2, 2), (1, 1, 1), ((0, 0), (1, 1), (1, 1)), True), (5, 8, 6, 2), (5, 4, 3, 4)),
        (ConvTranspose(3, (2, 2), (2, 2), True), (4, 5, 8), (8, 10, 3)),
        (ConvTranspose(3, (3, 4), (2, 1), True), (4, 5, 8), (9, 8, 3)),
        (ConvTranspose(3, (1, 2, 2), (1, 2, 2), True), (4, 5, 6, 8), (4, 10, 12, 3)),
        (Dense(7, True), (12,), (7,)),
        (Dense(7, False), (1, 1, 12), (1, 1, 7)),
        (MaxPool((2, 2), (2, 2), NONE, False), (11, 5, 3), (5, 2, 3)),
        (MaxPool((2, 2), (2, 2), NONE, True), (11, 5, 3), (6, 3, 3)),
        (MaxPool((3, 3), (2, 2), ((1, 1), (1, 1)), True), (128, 161, 3), (65, 81, 3)),  # DeepLab's
        (MaxPool((3, 3), (2, 2), ((1, 1), (1, 1)), False), (128, 161, 3), (64, 81, 3)),
        (
            MaxPool((2, 2), (3, 3), ((0, 0), (1, 1)), True),
            (7, 5, 1),
            (3, 2, 1),
        ),  # a third would begin in the padding
        (MaxPool((2, 2, 2), (2, 2, 2), (*NONE, (0, 0)), False), (11, 11, 11, 32), (5, 5, 5, 32)),
        (AveragePool((3, 2), (1, 2), ((1, 1), (0, 0)), False), (6, 5, 2), (6, 2, 2)),
        (GlobalAverage(keep_axes=True), (4, 5, 6, 2), (1, 1, 1, 2)),
        (GlobalAverage(keep_axes=False), (4, 5, 2), (2,)),
        (Upsample((2, 3)), (8, 6, 2), (16, 18, 2)),
        (Resize((33, 17), "bilinear", align_corners=True), (1, 40, 3), (33, 17, 3)),
        (Resize((3, 4, 5), "nearest", align_corners=False), (6, 6, 6, 1), (3, 4, 5, 1)),
        (Flatten(), (2, 2, 2, 64), (512,)),
        *(
            (op, (4, 5, 3), (4, 5, 3))
            for op in (
                BatchNorm(0.9, 1e-5),
                InstanceNorm(1e-5),
                Relu(),
                LeakyRelu(0.01),
                PRelu("voxel", "zeros"),
                Sigmoid(),
                Softmax(),
                Dropout(0.5),
            )
        ),
    ],
)
def test_the_result_has_the_shape_worked_out_by_hand(op: Op, shape: Shape, result: Shape) -> None:
    assert node(op, shape).shape == result


@pytest.mark.parametrize(
    ("op", "shapes", "result"),
    [
        (Concat(), [(4, 5, 1), (4, 5, 2), (4, 5, 3)], (4, 5, 6)),
        (Concat(), [(7,), (3,)], (10,)),
        (Add(), [(4, 5, 2), (4, 5, 2)], (4, 5, 2)),
        (Maximum(), [(4, 5, 2), (4, 5, 2), (4, 5, 2)], (4, 5, 2)),
        (Multiply(), [(4, 5, 2), (1, 1, 2)], (4, 5, 2)),
        (Multiply(), [(4, 5, 1), (4, 5, 3)], (4, 5, 3)),
        (Multiply(), [(4, 1, 1), (1, 5, 3)], (4, 5, 3)),
    ],
)
def test_several_inputs_are_joined(op: Op, shapes: list[Shape], result: Shape) -> None:
    assert node(op, *shapes).shape == result


@pytest.mark.parametrize(
    ("op", "shapes", "words"),
    [
        (
            Conv(4, (3, 3), (1, 1), (2, 2), NONE, True),
            [(4, 9, 1)],
            r"dilation \(2, 2\) .* input of \(4, 9, 1\)",
        ),
        (Conv(4, (3, 3), (1, 1), (1, 1), NONE, True), [(4, 4, 4, 1)], r"2 spatial axes .* \(4, 4, 4, 1\), which has 3"),
        (ConvTranspose(4, (2, 2), (2, 2), True), [(4, 4, 4, 1)], "2 spatial axes"),
        (MaxPool((3, 3), (2, 2), NONE, False), [(2, 8, 1)], r"MaxPool of \(3, 3\) .* input of \(2, 8, 1\)"),
        (AveragePool((2, 2), (2, 2), NONE, True), [(8, 8, 8, 1)], "2 spatial axes"),
        (Upsample((2, 2)), [(8, 8, 8, 1)], "2 spatial axes"),
        (Resize((2, 2), "nearest", False), [(8, 8, 8, 1)], "2 spatial axes"),
        (Concat(), [(4, 5, 1), (4, 6, 1)], r"one spatial size, received \[\(4, 5, 1\), \(4, 6, 1\)\]"),
        (Add(), [(4, 5, 1), (4, 5, 2)], r"one shape, received \[\(4, 5, 1\), \(4, 5, 2\)\]"),
        (Add(), [(4, 5, 1)], "two inputs or more, received 1"),
        (Multiply(), [(4, 5, 2), (4, 5, 3)], r"equal or 1, received \[\(4, 5, 2\), \(4, 5, 3\)\]"),
        (Multiply(), [(4, 5, 2), (2,)], "equal or 1"),
        (Relu(), [(4, 5, 2), (4, 5, 2)], "one input, received 2"),
    ],
)
def test_an_input_that_does_not_fit_is_told_with_the_node_and_the_sizes(
    op: Op, shapes: list[Shape], words: str
) -> None:
    with pytest.raises(ShapeError, match=rf"one: node 'op': .*{words}"):
        node(op, *shapes)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_dropout_rate_outside_its_range_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="dropout rate"):
        Dropout(rate)


def test_arguments_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"at least as wide as its stride; .*kernel=\(1, 2\), stride=\(2, 2\)"):
        ConvTranspose(4, (1, 2), (2, 2), bias=True)
    with pytest.raises(ConfigError, match="padding narrower than its window"):
        MaxPool((2, 2), (2, 2), ((0, 2), (0, 0)), ceil=False)
    with pytest.raises(ConfigError, match="no align_corners"):
        Resize((4, 4), "nearest", align_corners=True)
    with pytest.raises(ConfigError, match="at least 1"):
        Resize((4, 0), "bilinear", align_corners=True)


def test_the_overhang_of_the_last_window() -> None:
    assert MaxPool((3, 3), (2, 2), NONE, ceil=True).overhang((8, 9, 1)) == (1, 0)
    assert MaxPool((3, 3), (2, 2), NONE, ceil=False).overhang((8, 9, 1)) == (0, 0)


def test_weights_have_the_stated_layouts() -> None:
    kernel = ConvTranspose(4, (2, 3), (1, 1), bias=True).weights([(5, 5, 7)])["kernel"]
    assert kernel.shape == (2, 3, 7, 4)
    assert Dense(4, bias=False).weights([(7,)]).keys() == {"kernel"}
    assert PRelu("voxel", "zeros").weights([(5, 6, 7)])["alpha"].shape == (5, 6, 7)
    assert PRelu("channel", "zeros").weights([(5, 6, 7)])["alpha"].shape == (7,)
