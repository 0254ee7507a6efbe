import pytest

from mspipeline.errors import ShapeError
from mspipeline.network.graph import Builder, Graph
from mspipeline.network.ops import BatchNorm, Concat, Conv, Input, Relu


def conv(filters: int = 4, **changes: object) -> Conv:
    arguments = {
        "kernel": (3, 3),
        "stride": (1, 1),
        "dilation": (1, 1),
        "padding": ((1, 1), (1, 1)),
        "bias": True,
    } | changes
    return Conv(filters, **arguments)  # type: ignore[arg-type]


def chain(*ops: object, shape: tuple[int, ...] = (8, 6, 2)) -> Graph:
    builder = Builder("chain")
    x = builder.add("image", Input(shape))
    for number, op in enumerate(ops):
        x = builder.add(f"op{number}", op, x)  # type: ignore[arg-type]
    return builder.graph(x)


@pytest.mark.parametrize(
    ("op", "shape"),
    [
        (conv(), (8, 6, 4)),
        (conv(padding=((0, 0), (0, 0))), (6, 4, 4)),
        (conv(stride=(2, 3)), (4, 2, 4)),  # (8 + 2 - 3) // 2 + 1, (6 + 2 - 3) // 3 + 1
        (conv(dilation=(2, 2)), (6, 4, 4)),
        (conv(kernel=(2, 2), padding=((0, 1), (0, 1))), (8, 6, 4)),
        (BatchNorm(0.9, 1e-5), (8, 6, 2)),
    ],
)
def test_shapes_follow_from_the_arguments(op: object, shape: tuple[int, ...]) -> None:
    assert chain(op)["op0"].shape == shape


def test_a_3d_convolution_has_three_spatial_axes() -> None:
    op = conv(kernel=(3, 3, 3), stride=(1, 1, 1), dilation=(1, 1, 1), padding=((0, 0),) * 3)
    assert chain(op, shape=(11, 11, 11, 3))["op0"].shape == (9, 9, 9, 4)


def test_concat_adds_channels() -> None:
    builder = Builder("two")
    a = builder.add("a", Input((4, 4, 3)))
    b = builder.add("b", Relu(), a)
    assert builder.graph(builder.add("both", Concat(), a, b))["both"].shape == (4, 4, 6)


@pytest.mark.parametrize(
    ("op", "shape", "words"),
    [
        (conv(padding=((0, 0), (0, 0))), (2, 2, 1), "does not fit"),
        (conv(), (4, 4, 4, 1), "spatial axes"),
    ],
)
def test_a_node_that_does_not_fit_is_named(op: object, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ShapeError, match=rf"chain: node 'op0': .*{words}"):
        chain(op, shape=shape)


def test_two_nodes_of_one_name_are_refused() -> None:
    builder = Builder("twice")
    builder.add("x", Input((4, 4, 1)))
    with pytest.raises(ShapeError, match="two nodes named 'x'"):
        builder.add("x", Relu(), "x")


def test_the_hash_depends_on_every_argument_and_not_on_the_display_name() -> None:
    reference = chain(BatchNorm(0.9, 1e-5))
    assert chain(BatchNorm(0.9, 1e-5)).hash == reference.hash
    assert Graph("another name", reference.nodes, reference.outputs).hash == reference.hash
    assert chain(BatchNorm(0.9, 1e-3)).hash != reference.hash
    assert chain(BatchNorm(0.99, 1e-5)).hash != reference.hash
