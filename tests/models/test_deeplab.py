import pytest

from mspipeline.models.catalogue import build
from mspipeline.network.cost import cost
from mspipeline.network.ops import BatchNorm, Conv, Sigmoid, Softmax

LAYERS = {"layer2": 3, "layer3": 4, "layer4": 23, "layer5": 3}


@pytest.mark.parametrize(
    ("name", "channels", "classes", "trainable"),
    [
        ("deeplabv2", 1, 2, 42_641_352),
        ("deeplabv2", 3, 2, 42_647_624),
        ("deeplabv2", 3, 21, 44_048_532),
        ("deeplabv2", 1, 1, 42_567_620),
        ("deeplabv3", 1, 2, 58_029_506),
        ("deeplabv3", 3, 2, 58_035_778),
        ("deeplabv3", 3, 21, 58_040_661),
        ("deeplabv3", 1, 1, 58_029_249),
    ],
)
def test_parameter_counts_are_those_of_the_public_code(name: str, channels: int, classes: int, trainable: int) -> None:
    assert cost(build(name, (64, 64, channels), {"classes": classes})).trainable == trainable


@pytest.mark.parametrize(("name", "numbers"), [("deeplabv2", 105_344), ("deeplabv3", 108_416)])
def test_normalisation_has_as_many_affine_as_running_numbers(name: str, numbers: int) -> None:
    graph = build(name, (64, 64, 1), {})
    normalised = {node.name for node in graph if isinstance(node.op, BatchNorm)}
    affine = sum(node.trainable for node in cost(graph).nodes if node.name in normalised)
    assert (affine, cost(graph).non_trainable) == (numbers, numbers)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("deeplabv2", {"aspp": 147_464}),
        ("deeplabv3", {"aspp": 15_206_912, "mix": 328_192, "logits": 514}),
    ],
)
def test_parameters_of_each_stage(name: str, parts: dict[str, int]) -> None:
    backbone = {"stem": 3_264, "layer2": 215_808, "layer3": 1_219_584, "layer4": 26_090_496, "layer5": 14_964_736}
    nodes = cost(build(name, (64, 64, 1), {})).nodes
    expected = backbone | parts
    found = {part: sum(node.trainable for node in nodes if node.name.startswith(part)) for part in expected}
    assert found == expected


@pytest.mark.parametrize(
    ("name", "sizes", "dilations"),
    [("deeplabv2", [65, 65, 33, 33, 33], [2, 4, 4, 4]), ("deeplabv3", [65, 65, 33, 17, 17], [1, 2, 4, 8])],
)
def test_sizes_and_dilations_along_the_backbone(name: str, sizes: list[int], dilations: list[int]) -> None:
    graph = build(name, (256, 256, 1), {})
    ends = ["stem_pool", *(f"{layer}_{count}_act" for layer, count in LAYERS.items())]
    assert [graph[node].shape[:2] for node in ends] == [(size, size) for size in sizes]
    assert graph[graph.outputs[0]].shape == (sizes[-1], sizes[-1], 2)
    ops = [graph[f"{node}_conv"].op for node in ("layer4_23", "layer5_1", "layer5_2", "layer5_3")]
    assert [op.dilation[0] for op in ops if isinstance(op, Conv)] == dilations


@pytest.mark.parametrize("name", ["deeplabv2", "deeplabv3"])
def test_full_size_gives_probabilities_for_every_pixel_and_no_more_parameters(name: str) -> None:
    plain, full = (build(name, (96, 80, 1), {"full_size": wanted}) for wanted in (False, True))
    assert full[full.outputs[0]].shape == (96, 80, 2)
    assert isinstance(full[full.outputs[0]].op, Softmax)
    assert cost(full).total == cost(plain).total


@pytest.mark.parametrize(
    ("name", "shape", "arguments"),
    [
        ("deeplabv2", (32, 32, 1), {"full_size": True}),
        ("deeplabv3", (32, 32, 1), {"full_size": True}),
        ("vnet", (16, 16, 16, 1), {}),
    ],
)
def test_a_single_class_ends_in_a_sigmoid(name: str, shape: tuple[int, ...], arguments: dict[str, bool]) -> None:
    graph = build(name, shape, {"classes": 1, **arguments})  # a softmax over one class would be 1 everywhere
    assert isinstance(graph[graph.outputs[0]].op, Sigmoid)
    assert graph[graph.outputs[0]].shape == (*shape[:-1], 1)
