"""Classes of positions, against the table worked out by hand for the two published networks."""

from __future__ import annotations

import pytest

from mspipeline.dense.border_classes import Source, axis_layers, obstacle, separate, shared
from mspipeline.errors import ShapeError
from mspipeline.models.catalogue import build
from mspipeline.network.graph import Graph

CASCADE = build("cascade3d", (11, 11, 11, 3), {})
NICMS = build("nicms", (11, 11, 11, 3), {"prelu": "channel"})


@pytest.mark.parametrize(
    ("graph", "counts"),
    [
        (CASCADE, {"image": 1, "conv1": 2, "pool1": 2, "conv2": 3, "pool2": 2}),
        (NICMS, {"image": 1, "conv1_1": 3, "conv1_2": 4, "pool1": 3, "conv2_1": 5, "conv2_2": 4, "pool2": 2}),
    ],
    ids=["cascade3d", "nicms"],
)
def test_layers_have_as_many_classes_along_an_axis_as_the_table_says(graph: Graph, counts: dict[str, int]) -> None:
    for axis in range(3):
        assert {name: len(layer.taps) for name, layer in axis_layers(graph, axis).items()} == counts


def test_positions_of_the_cascades_layers_are_in_these_classes() -> None:
    layers = axis_layers(CASCADE, 0)
    assert layers["conv1"].class_of == (0, *[1] * 9, None)  # pooling drops the last
    assert layers["conv1"].taps == ((None, 0, 0), (0, 0, 0))
    assert layers["pool1"].class_of == (0, 1, 1, 1, 1)
    assert layers["conv2"].class_of == (0, 1, 2, 2, None)
    assert layers["conv2"].taps == ((None, 0, 1), (0, 1, 1), (1, 1, 1))
    assert layers["pool2"].taps == ((0, 1), (2, 2))


def test_positions_of_nicms_second_convolution_reach_both_borders() -> None:
    second = axis_layers(NICMS, 1)["conv1_2"]
    assert second.class_of == (0, 1, *[2] * 7, 3, None)
    assert second.taps == ((None, 0, 1), (0, 1, 1), (1, 1, 1), (1, 1, 2))


def test_the_work_of_a_voxel_with_classes_apart_is_the_tables() -> None:
    def products(graph: Graph, name: str) -> int:
        return separate(axis_layers(graph, 0)[name]).products ** 3

    cascade = products(CASCADE, "conv1") * 3 * 32 + products(CASCADE, "conv2") * 32 * 64 + 512 * 256 + 256 * 2
    assert cascade == 1_192_160  # "1.192 M"
    nicms = products(NICMS, "conv1_1") * 3 * 32 + products(NICMS, "conv1_2") * 32 * 32
    nicms += products(NICMS, "conv2_1") * 32 * 64 + products(NICMS, "conv2_2") * 64 * 64
    nicms += 512 * 256 + 256 * 128 + 128 * 64 + 64 * 2
    assert nicms == 11_519_264  # "11.519 M"


def test_a_shared_kernel_needs_only_what_differs_beside_it() -> None:
    terms = shared(axis_layers(CASCADE, 0)["conv2"])
    everywhere, first, second = terms.terms
    assert everywhere.sources == (Source(0, 1), Source(1, 1), Source(2, 1))
    assert first.sources == (Source(1, 0), Source(2, 1))  # as many as the differences: it stands alone
    assert second.sources == (Source(0, 0, minus=1),)
    assert terms.of_class == ((1,), (0, 2), (0,))
    assert [term.whole for term in terms.terms] == [True, True, False]
    assert terms.products == 6


@pytest.mark.parametrize(
    ("model", "shape", "words"),
    [
        ("nicms", (11, 11, 11, 2), "conv1_1_act has an alpha for each voxel of a patch; train with prelu=channel"),
        ("unet2d", (32, 32, 1), "does not take patches of three axes"),
        ("vnet", (16, 16, 16, 2), "is not one of a chain of operations"),
        ("nnunet3d", (16, 16, 16, 1), r"\(InstanceNorm\) is not of a kind"),
    ],
)
def test_a_network_without_a_dense_form_says_why(model: str, shape: tuple[int, ...], words: str) -> None:
    graph = build(model, shape, {})
    with pytest.raises(ShapeError, match=f"no dense form: .*{words}"):
        axis_layers(graph, 0)
    assert obstacle(CASCADE) == obstacle(NICMS) == ""
