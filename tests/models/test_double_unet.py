import pytest

from mspipeline.errors import ConfigError, ShapeError
from mspipeline.models.catalogue import build
from mspipeline.network.cost import cost
from mspipeline.network.ops import BatchNorm, Conv, Multiply, Resize, Upsample

SIDE = 64


def counts(name: str, channels: int, **arguments: object) -> tuple[int, int]:
    costs = cost(build(name, (SIDE, SIDE, channels), arguments))
    return costs.trainable, costs.non_trainable


@pytest.mark.parametrize("name", ["double_unet", "double_unet_report_tf"])
@pytest.mark.parametrize(("channels", "trainable"), [(1, 29_288_546), (3, 29_290_274)])
def test_parameter_counts_are_those_of_the_authors_keras_code(name: str, channels: int, trainable: int) -> None:
    assert counts(name, channels) == (trainable, 7_296)


@pytest.mark.parametrize(("channels", "trainable"), [(1, 23_904_097), (3, 23_905_249)])
def test_the_first_network_alone_has_its_published_count(channels: int, trainable: int) -> None:
    assert counts("double_unet", channels, networks=1) == (trainable, 2_688)


@pytest.mark.parametrize(
    ("channels", "trainable", "printed"), [(1, 29_299_554, 29_318_498), (3, 29_301_282, 29_320_226)]
)
def test_the_reports_pyeddl_form_counted_as_its_library_prints(channels: int, trainable: int, printed: int) -> None:
    graph = build("double_unet_report_eddl", (SIDE, SIDE, channels), {})
    costs = cost(graph)
    assert (costs.trainable, costs.non_trainable) == (trainable, 18_304)
    # The printout adds running statistics, and a bias for each ASPP convolution that was made without one.
    without_bias = [node.op for node in graph if isinstance(node.op, Conv) and not node.op.bias]
    assert (len(without_bias), {op.filters for op in without_bias}) == (10, {64})
    assert costs.total + 10 * 64 == printed


@pytest.mark.parametrize(
    ("prefix", "parameters"),
    [
        # Trainable numbers at 1 channel, by hand: kernels and biases, 2 per channel for each normalisation, f^2/4 for
        # squeeze-and-excite of f filters.
        ("vgg", 20_023_232),
        ("aspp1", 970_816 + 768),
        ("dec1_4", 9 * (64 + 512) * 256 + 9 * 256 * 256 + 2 * 256 + 4 * 256 + 256**2 // 4),
        ("dec1_1", 9 * (64 + 64) * 32 + 9 * 32 * 32 + 2 * 32 + 4 * 32 + 32**2 // 4),
        ("output1", 33),
        ("enc2_1", 9 * 1 * 32 + 9 * 32 * 32 + 2 * 32 + 4 * 32 + 32**2 // 4),
        ("aspp2", 495_680 + 768),
        ("dec2_4", 9 * (64 + 512 + 256) * 256 + 9 * 256 * 256 + 2 * 256 + 4 * 256 + 256**2 // 4),
        ("output2", 33),
    ],
)
def test_parameters_of_each_part(prefix: str, parameters: int) -> None:
    nodes = cost(build("double_unet", (SIDE, SIDE, 1), {})).nodes
    assert sum(node.trainable for node in nodes if node.name.startswith(prefix)) == parameters


def test_the_reports_forms_are_different_networks() -> None:
    keras, eddl = (build(f"double_unet_report_{name}", (SIDE, SIDE, 1), {}) for name in ("tf", "eddl"))
    dilations = [
        [
            node.op.dilation[0]
            for node in graph
            if isinstance(node.op, Conv) and not node.op.bias and "conv" in node.name
        ]
        for graph in (keras, eddl)
    ]
    assert dilations == [[1, 6, 12, 18] * 2, [1, 1, 1, 1] * 2]
    assert [sum(isinstance(node.op, Resize) for node in graph) for graph in (keras, eddl)] == [8, 0]
    assert [sum(isinstance(node.op, Upsample) for node in graph) for graph in (keras, eddl)] == [2, 10]
    assert [sum(isinstance(node.op, BatchNorm) for node in graph) for graph in (keras, eddl)] == [36, 52]


def test_the_second_network_sees_the_image_times_the_first_ones_output() -> None:
    graph = build("double_unet", (32, 48, 3), {"base_width": 16})
    masked = graph["masked_image"]
    assert isinstance(masked.op, Multiply)
    assert masked.inputs == ("image", "output1")
    assert masked.shape == (32, 48, 3)
    assert graph[graph.outputs[0]].shape == (32, 48, 1)


def test_a_size_that_the_poolings_do_not_divide_is_answered_with_one_that_would_do() -> None:
    with pytest.raises(ShapeError, match=r"double_unet: image size 100x64 is not a multiple of 16 .* 96x64"):
        build("double_unet", (100, 64, 1), {})


@pytest.mark.parametrize(("arguments", "words"), [({"base_width": 24}, "multiple of 16"), ({"networks": 3}, "1 or 2")])
def test_arguments_are_checked(arguments: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build("double_unet", (64, 64, 1), arguments)
