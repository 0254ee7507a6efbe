"""Which channel of an output means which label, and what a mask may hold."""

from __future__ import annotations

import numpy as np
import pytest

from mspipeline.channels import ONE_PROBABILITY, Channels, channels_of, label_map
from mspipeline.errors import ConfigError, ShapeError, ShardError
from mspipeline.labels import LESION, LESIONS, LabelSet, read_stored, stored
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


HIPPOCAMPUS = LabelSet(
    ("background", "anterior", "posterior"), frozenset({"posterior"}), {"whole": ("anterior", "posterior")}
)


def test_a_label_set_is_read_back_from_its_plain_data() -> None:
    document = HIPPOCAMPUS.to_json()
    assert document == {
        "labels": {
            "background": {"value": 0},
            "anterior": {"value": 1},
            "posterior": {"value": 2, "count_components": True},
        },
        "regions": {"whole": ["anterior", "posterior"]},
    }
    assert LabelSet.from_json(document, where="here") == HIPPOCAMPUS
    assert stored(LESIONS) is None
    assert read_stored(None, where="here") == LESIONS
    assert read_stored(stored(HIPPOCAMPUS), where="here") == HIPPOCAMPUS


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "here: expected a table of names; received: []"),
        ({"labels": {"background": {"value": 0}}, "region": {}}, "here: unknown key 'region'; did you mean 'regions'"),
        (
            {"labels": {"lesion": {"value": 0}, "other": {"value": 1}}},
            "here: labels lesion, other: expected back",
        ),
        (
            {"labels": {"background": {"value": 0}, "a": {"value": 2}}},
            "here: labels have the values 0, 2; expected",
        ),
        ({"labels": {"background": {"value": 0}, "a": {"value": True}}}, "here: label 'a': expected a value, a whole"),
        ({"labels": {"background": {"value": 0}, "a": {"value": 0}}}, "here: label 'a': expected a value, a whole"),
        (
            {"labels": {"background": {"value": 0}, "a": {"value": 1, "count": True}}},
            "here: label 'a': unknown key 'count'; valid: count_components",
        ),
        (
            {"labels": {"background": {"value": 0}, "a": {"value": 1}}, "regions": {"all": ["b"]}},
            "here: all: no label 'b'; valid: a",
        ),
        (
            {"labels": {"background": {"value": 0}, "a": {"value": 1}}, "regions": {"all": "a"}},
            "here: region 'all': expected a list of labels; received: 'a'",
        ),
        (
            {"labels": {"background": {"value": 0}, "a": {"value": 1}}, "regions": {"a": ["a"]}},
            "here: region 'a': expected a name that no label has",
        ),
    ],
)
def test_a_document_that_is_no_label_set_is_answered_with_what_was_expected(document: object, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        LabelSet.from_json(document, where="here")
    assert str(error.value).startswith(words)


def test_each_label_and_each_region_is_scored() -> None:
    anterior, posterior, whole = HIPPOCAMPUS.scored
    assert (anterior.name, anterior.numbers, anterior.count_components) == ("anterior", (1,), False)
    assert (posterior.numbers, posterior.count_components, posterior.united) == ((2,), True, ())
    assert (whole.name, whole.numbers, whole.count_components) == ("whole", (1, 2), False)
    assert whole.united == ("anterior", "posterior")
    mask = np.array([0, 1, 2, 1], np.uint8)
    assert [region.of(mask).tolist() for region in HIPPOCAMPUS.scored] == [
        [False, True, False, True],
        [False, False, True, False],
        [False, True, True, True],
    ]
    assert HIPPOCAMPUS.voxels(mask) == {"anterior": 2, "posterior": 1}
    assert [region.count_components for region in LESIONS.scored] == [True]


def test_one_probability_decides_at_the_threshold() -> None:
    lesion = np.array([0.2, np.float32(0.8), 0.9], np.float32)  # float32(0.8) > 0.8
    assert label_map(LESIONS, {"lesion": lesion}, threshold=0.8).tolist() == [0, 1, 1]
    assert label_map(LESIONS, {"lesion": lesion}, threshold=0.8).dtype == np.uint8
    assert Channels(LESIONS, LESIONS.names).decisive == ("lesion",)


def test_of_a_softmax_the_largest_probability_decides_and_of_equal_ones_the_first() -> None:
    output = np.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.4, 0.4, 0.2], [0.2, 0.4, 0.4], [0, 0, 0]], np.float32)
    channels = Channels(TISSUES, TISSUES.names)
    assert channels.decisive == TISSUES.names
    assert label_map(TISSUES, channels.probabilities(output), threshold=0.9).tolist() == [0, 2, 0, 1, 0]


def test_of_sigmoids_the_largest_one_that_reaches_the_threshold_decides() -> None:
    output = np.array([[0.4, 0.3], [0.6, 0.3], [0.6, 0.7], [0.5, 0.5]], np.float32)
    channels = Channels(TISSUES, TISSUES.foreground)
    assert label_map(TISSUES, channels.probabilities(output), threshold=0.5).tolist() == [0, 1, 2, 1]


def test_a_network_of_too_few_classes_is_answered_with_the_argument_to_set() -> None:
    with pytest.raises(ShapeError, match=r"for the labels background, .* set classes=3 \(`--set classes=3`\)"):
        channels_of(build("unet2d", (32, 32, 1), {}), (32, 32), TISSUES)
    assert channels_of(build("unet2d", (32, 32, 1), {"classes": 3}), (32, 32), TISSUES).names == TISSUES.names
