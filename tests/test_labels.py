"""Which channel of an output means which label, and what a mask may hold."""

from __future__ import annotations

import numpy as np
import pytest

from mspipeline.errors import ConfigError, ShapeError, ShardError
from mspipeline.labels import LESION, LESIONS, ONE_PROBABILITY, Channels, LabelSet, channels_of
from mspipeline.models.catalogue import build
from mspipeline.network.graph import Builder, Graph
from mspipeline.network.ops import Conv, Input, Op, Sigmoid, Softmax

TISSUES = LabelSet(("background", "grey matter", "white matter"))


def ending(op: Op, channels: int) -> Graph:
    """A network of one convolution on slices of 4 x 4."""
    builder = Builder("ending")
    x = builder.add("image", Input((4, 4, 1)))
    x = builder.add("logits", Conv(channels, (1, 1), (1, 1), (1, 1), ((0, 0), (0, 0)), bias=True), x)
    return builder.graph(builder.add("probability", op, x))


def test_a_sigmoid_has_a_channel_a_label_and_a_softmax_one_more_for_the_background() -> None:
    assert channels_of(ending(Sigmoid(), 1), (4, 4)).names == ("lesion",)
    assert channels_of(ending(Softmax(), 2), (4, 4)).names == ("background", "lesion")
    assert channels_of(ending(Softmax(), 3), (4, 4), TISSUES).names == ("background", "grey matter", "white matter")
    assert channels_of(ending(Sigmoid(), 2), (4, 4), TISSUES).names == ("grey matter", "white matter")


@pytest.mark.parametrize(
    ("name", "shape", "arguments", "names"),
    [
        ("unet2d", (32, 32, 1), {}, ("lesion",)),
        ("deeplabv3", (32, 32, 1), {"full_size": True}, ("background", "lesion")),
        ("deeplabv2", (32, 32, 1), {"full_size": True, "classes": 1}, ("lesion",)),
        ("cascade3d", (11, 11, 11, 3), {}, ("background", "lesion")),
    ],
)
def test_networks_of_the_catalogue_have_the_channels_of_their_last_operation(
    name: str, shape: tuple[int, ...], arguments: dict[str, int], names: tuple[str, ...]
) -> None:
    spatial = shape[:2] if len(shape) == 3 else ()
    assert channels_of(build(name, shape, arguments), spatial).names == names


@pytest.mark.parametrize(
    ("graph", "spatial"),
    [
        (ending(Sigmoid(), 2), (4, 4)),  # two lesions, or a background? nobody can tell
        (ending(Softmax(), 1), (4, 4)),
        (ending(Softmax(), 3), (4, 4)),
        (ending(Sigmoid(), 1), (8, 8)),
        (ending(Sigmoid(), 1), ()),
    ],
)
def test_other_outputs_are_refused_with_what_is_needed(graph: Graph, spatial: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"ending: gives \(4, 4, \d\) after \w+, expected probabilities .*softmax"):
        channels_of(graph, spatial)


def test_logits_are_no_probabilities() -> None:
    with pytest.raises(ShapeError, match=r"cascade3d_report_eddl: gives \(1,\) after Dense, .* of a patch"):
        channels_of(build("cascade3d_report_eddl", (11, 11, 11, 3), {}), ())
    with pytest.raises(ShapeError, match=r"deeplabv3: gives \(5, 5, 2\) after Conv, .*full_size=true"):
        channels_of(build("deeplabv3", (64, 64, 1), {}), (64, 64))


def test_the_probability_of_lesion_is_its_channel() -> None:
    output = np.array([[[[0.75, 0.25]]], [[[0.125, 0.875]]]], np.float32)  # (2, 1, 1, 2)
    both = Channels(LESIONS, ("background", "lesion"))
    assert both.probability(LESION, output).tolist() == [[[0.25]], [[0.875]]]
    assert ONE_PROBABILITY.probability(LESION, output[..., :1]).tolist() == [[[0.75]], [[0.125]]]
    with pytest.raises(ShapeError, match="an output of 2 channels, expected lesion"):
        ONE_PROBABILITY.probability(LESION, output)


def test_masks_become_what_the_output_should_have_been() -> None:
    masks = np.array([[0.0], [1.0]], np.float32)
    assert ONE_PROBABILITY.targets(masks) is masks
    one_hot = Channels(LESIONS, LESIONS.names).targets(masks)
    assert one_hot.dtype == np.float32
    assert one_hot.tolist() == [[1, 0], [0, 1]]
    tissues = np.array([[0.0], [1.0], [2.0]], np.float32)
    assert Channels(TISSUES, TISSUES.names).targets(tissues).tolist() == np.eye(3).tolist()
    assert Channels(TISSUES, TISSUES.foreground).targets(tissues).tolist() == [[0, 0], [1, 0], [0, 1]]


def test_a_number_that_is_no_label_is_named_with_its_count() -> None:
    masks = np.array([0, 1, 2, 1, 2, 0.5], np.float32)
    LESIONS.check(masks[:2], where="sub-01")
    TISSUES.check(masks[:5], where="sub-01")
    with pytest.raises(ShardError, match=r"^sub-01: 3 mask voxels hold 0.5, 2, expected 0 .*, 1 \(lesion\)"):
        LESIONS.check(masks, where="sub-01")


@pytest.mark.parametrize("names", [(), ("background",), ("lesion", "background"), ("background", "a", "a")])
def test_a_label_set_begins_with_the_background_and_names_each_label_once(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="expected background first, then at least one label, each named once"):
        LabelSet(names)
