import pytest

from mspipeline.errors import ShapeError
from mspipeline.models.catalogue import build
from mspipeline.network.cost import cost
from mspipeline.network.graph import Graph
from mspipeline.network.ops import Conv


def receptive_field(graph: Graph, end: str) -> int:
    """Voxels of the image that a value at `end` depends on, along one axis, on the longest path down."""
    field, step, name, path = 1, 1, end, []
    while graph[name].inputs:
        path.append(graph[name].op)
        name = graph[name].inputs[0]
    for op in reversed(path):
        if isinstance(op, Conv):
            field += (op.kernel[0] - 1) * step
            step *= op.stride[0]
    return field


def test_parameter_count_by_hand() -> None:
    fives = {16: [1], 32: [32] * 2, 64: [64] * 3, 128: [128] * 3, 256: [256] * 3}
    up = {256: [256] * 3, 128: [128] * 3, 64: [64] * 2, 32: [32]}
    halvings = [(16, 32), (32, 64), (64, 128), (128, 256), (256, 128), (256, 64), (128, 32), (64, 16)]
    # kernel, bias and alpha of every convolution; the last one has no alpha
    expected = sum(
        125 * source * out + 2 * out for table in (fives, up) for out, row in table.items() for source in row
    )
    expected += sum(8 * source * out + 2 * out for source, out in halvings) + 32 * 2 + 2
    costs = cost(build("vnet", (32, 32, 32, 1), {}))
    assert (costs.trainable, costs.non_trainable) == (expected, 0)


@pytest.mark.parametrize(("stage", "voxels"), [(1, 5), (2, 22), (3, 72), (4, 172), (5, 372)])
def test_receptive_fields_are_those_of_the_papers_table(stage: int, voxels: int) -> None:
    convolutions = {1: 1, 2: 2, 3: 3, 4: 3, 5: 3}[stage]
    assert receptive_field(build("vnet", (32, 32, 32, 1), {}), f"down{stage}_conv{convolutions}_act") == voxels


def test_the_papers_sizes() -> None:
    graph = build("vnet", (64, 128, 128, 1), {})
    assert graph["down5_sum"].shape == (4, 8, 8, 256)
    assert graph[graph.outputs[0]].shape == (64, 128, 128, 2)


def test_several_channels_are_repeated_for_the_first_sum() -> None:
    graph = build("vnet", (16, 16, 16, 4), {})
    assert graph["image_copies"].inputs == ("image",) * 4


@pytest.mark.parametrize(
    ("shape", "words"),
    [((20, 32, 32, 1), "multiple of 16 .* 16x32x32"), ((16, 16, 16, 3), "3 channels do not divide base_width=16")],
)
def test_images_that_do_not_fit_are_refused(shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        build("vnet", shape, {})
