import pytest

from mspipeline.errors import ConfigError, ShapeError
from mspipeline.models.catalogue import MODELS, build
from mspipeline.network.cost import cost
from mspipeline.network.ops import BatchNorm, Conv


@pytest.mark.parametrize(
    ("channels", "trainable", "non_trainable"),
    [
        (1, 31_045_387, 13_702),  # the report's PyEDDL U-Net as it was really trained: 31,059,089
        (3, 31_046_539, 13_702),  # as the report prints it: 31,060,241
    ],
)
def test_parameter_counts_are_those_of_the_report(channels: int, trainable: int, non_trainable: int) -> None:
    costs = cost(build("unet2d", (256, 256, channels), {}))
    assert (costs.trainable, costs.non_trainable) == (trainable, non_trainable)


def test_every_convolution_is_normalised() -> None:
    graph = build("unet2d", (64, 64, 1), {"base_width": 4})
    normalised = {node.inputs[0] for node in graph if isinstance(node.op, BatchNorm)}
    convolutions = {node.name for node in graph if isinstance(node.op, Conv)}
    assert normalised == convolutions
    assert len(convolutions) == 24


def test_the_output_is_one_probability_a_pixel() -> None:
    graph = build("unet2d", (48, 80, 2), {"base_width": 4})
    assert graph[graph.outputs[0]].shape == (48, 80, 1)


@pytest.mark.parametrize(("shape", "fitting"), [((100, 96, 1), "96x96"), ((8, 8, 1), "16x16")])
def test_a_size_that_the_poolings_do_not_divide_is_answered_with_one_that_would_do(
    shape: tuple[int, ...], fitting: str
) -> None:
    with pytest.raises(ShapeError, match=f"not a multiple of 16 .* {fitting}"):
        build("unet2d", shape, {})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"base_widht": 8}, "unknown argument 'base_widht'; did you mean 'base_width'"),
        ({"base_width": "8"}, "must be of type int; received: '8'"),
        ({"base_width": 0}, "at least 1"),
        ({"base_width": True}, "must be of type int"),
        ({"dropout": 1.5}, "dropout rate"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build("unet2d", (64, 64, 1), arguments)


def test_an_unknown_model_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown model 'unet'; did you mean 'unet2d'"):
        build("unet", (64, 64, 1), {})


@pytest.mark.parametrize("name", MODELS)
def test_each_example_builds(name: str) -> None:
    assert build(name, MODELS[name].example_shape, {}).nodes
