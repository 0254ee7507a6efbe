"""Our graphs as ONNX files, against NumPy one operation at a time, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mspipeline.errors import DataError, ShapeError
from mspipeline.interchange.onnx import OPSET, read_onnx, to_onnx, write_onnx
from mspipeline.interchange.onnx.layout import onnx_nearest, own_nearest
from mspipeline.models.catalogue import build
from mspipeline.network import ops
from mspipeline.network.graph import Builder, Graph
from mspipeline.network.weights import initial_weights
from tests.contract.reference_operations import forward
from tests.contract.test_operations import SHAPES, gallery, random_weights
from tests.interchange.onnx_files import channels_first, images, outputs, perturbed

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SMALL: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "unet2d": ((32, 48, 1), {"base_width": 4}),
    "double_unet": ((32, 32, 1), {"base_width": 16}),
    "cascade3d": ((11, 11, 11, 3), {}),
    "nicms": ((11, 11, 11, 2), {}),
    "deeplabv2": ((33, 33, 1), {"base_width": 4}),
    "deeplabv3": ((48, 48, 1), {"base_width": 4, "full_size": True}),
    "vnet": ((16, 16, 16, 1), {"base_width": 4}),
    "nnunet3d": ((16, 16, 16, 1), {}),
}


@pytest.fixture(params=SMALL)
def graph(request: pytest.FixtureRequest) -> Graph:
    shape, arguments = SMALL[request.param]
    return build(request.param, shape, arguments)


@pytest.mark.parametrize("rank", [2, 3])
def test_every_operations_values_in_onnxruntime_are_numpys(rank: int) -> None:
    graph, batch = gallery(rank), images(SHAPES[rank])
    weights = random_weights(graph)
    model = to_onnx(graph, weights)
    onnx.checker.check_model(model, full_check=True)
    shown = [node.name for node in graph if node.inputs and node.name not in graph.outputs]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in shown)
    given = outputs(model, channels_first(batch))
    for number, image in enumerate(batch):
        expected = forward(graph, weights, image)
        for name in (*shown, *graph.outputs):
            theirs = np.moveaxis(given[name][number], 0, -1)
            assert theirs.shape == expected[name].shape, name
            assert np.allclose(theirs, expected[name], rtol=1e-5, atol=4e-6), name


@pytest.mark.parametrize(("before", "after"), [(14, 4), (21, 12), (20, 7)])
def test_nearest_takes_the_voxel_below_where_float32_would_round_to_another(before: int, after: int) -> None:
    """In float32, 2 / (4 / 14) is below 7: ONNX's Resize takes voxel 6."""
    builder = Builder("nearest")
    x = builder.add("image", ops.Input((before, 3, 2)))
    graph = builder.graph(builder.add("out", ops.Resize((after, 5), "nearest", align_corners=False), x))
    batch, model = images((before, 3, 2)), to_onnx(graph, {})
    (given,) = outputs(model, channels_first(batch)).values()
    expected = forward(graph, {}, batch[0])["out"]
    assert np.array_equal(np.moveaxis(given[0], 0, -1), expected.astype("f4"))
    rounded = not np.array_equal(onnx_nearest(before, after, "asymmetric", "floor"), own_nearest(before, after))
    assert {node.op_type for node in model.graph.node} == ({"Gather"} if rounded else {"Resize"})


def test_a_file_says_its_opset_and_names_its_tensors_by_node_channels_first(tmp_path: Path) -> None:
    graph = build("nnunet3d", (8, 16, 16, 2), {"classes": 3})
    write_onnx(tmp_path / "net.onnx", graph, initial_weights(graph, 0))
    model = onnx.load(tmp_path / "net.onnx")
    assert [(each.domain, each.version) for each in model.opset_import] == [("", OPSET)]

    def described(value: Any) -> tuple[str, list[object]]:
        return value.name, [each.dim_param or each.dim_value for each in value.type.tensor_type.shape.dim]

    assert [described(each) for each in model.graph.input] == [("image", ["batch", 2, 8, 16, 16])]
    finest, *coarser = (described(each) for each in model.graph.output)
    assert finest == ("head1", ["batch", 3, 8, 16, 16])
    assert [name for name, _ in coarser] == list(graph.outputs[1:])
    for count in (1, 3):
        assert outputs(model, channels_first(images((8, 16, 16, 2), count)))["head1"].shape[0] == count


def test_a_refused_export_leaves_an_older_file(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    file.write_bytes(b"older")
    graph, other = (build("unet2d", (16, 16, 1), {"base_width": width}) for width in (2, 3))
    with pytest.raises(ShapeError, match="another network"):
        write_onnx(file, graph, initial_weights(other, 0))
    builder = Builder("twice")
    x = builder.add("image", ops.Input((4, 4, 1)))
    x = builder.add("dense", ops.Dense(2, bias=False), x)
    clash = builder.graph(builder.add("dense.kernel", ops.Relu(), x))
    with pytest.raises(DataError, match=r"twice: the name 'dense\.kernel' is used twice"):
        write_onnx(file, clash, initial_weights(clash, 0))
    assert file.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [file]


def test_one_graph_gives_one_file_byte_by_byte(tmp_path: Path) -> None:
    graph = build("unet2d", (16, 16, 1), {"base_width": 2})
    for name in ("a", "b"):
        write_onnx(tmp_path / name, graph, initial_weights(graph, 0))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_of_ours_gives_the_graph_it_was_written_from(graph: Graph, tmp_path: Path) -> None:
    weights = perturbed(graph)
    write_onnx(tmp_path / "net.onnx", graph, weights)
    read = read_onnx(tmp_path / "net.onnx")
    assert read.own
    assert read.graph == graph
    assert read.graph.hash == graph.hash
    assert read.weights.keys() == weights.keys()
    assert all(np.array_equal(read.weights[key], weights[key]) for key in weights)


def test_a_file_of_ours_without_its_description_computes_the_same_under_the_same_names(
    graph: Graph, tmp_path: Path
) -> None:
    weights, batch = perturbed(graph), channels_first(images(graph.inputs[0].shape))
    model = to_onnx(graph, weights)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "net.onnx")
    read = read_onnx(tmp_path / "net.onnx")
    assert not read.own
    assert [node.name for node in read.graph] == [node.name for node in graph]
    given, expected = outputs(to_onnx(read.graph, read.weights), batch), outputs(model, batch)
    assert given.keys() == expected.keys()
    for name in expected:
        assert np.array_equal(given[name], expected[name])
        assert np.ptp(expected[name]) > 0


@pytest.mark.parametrize("rank", [2, 3])
def test_every_operation_comes_back_from_its_nodes_alone(rank: int, tmp_path: Path) -> None:
    """Each operation's own result is an output; as one vector, channels last, ours could not be told."""
    whole = gallery(rank)
    nodes = tuple(node for node in whole if not isinstance(node.op, ops.Flatten) and node.name != "everything")
    used = {name for node in nodes for name in node.inputs}
    # A mean without axes comes back as one that keeps them and a Flatten, under two names.
    shown = tuple(node.name for node in nodes if node.name not in used | {"global_average"})
    graph, weights = Graph("gallery", nodes, shown), random_weights(whole)
    model, batch = to_onnx(graph, weights), channels_first(images(SHAPES[rank]))
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "net.onnx")
    read = read_onnx(tmp_path / "net.onnx")
    expected = outputs(model, batch)
    assert set(read.graph.outputs) == set(shown)
    for name, values in outputs(to_onnx(read.graph, read.weights), batch).items():
        assert np.array_equal(values, expected[name]), name
    renamed = {node.name for node in graph} ^ {node.name for node in read.graph}
    assert renamed == {"multiply_part1", "global_average", "global_average_in"}


def test_nodes_are_believed_and_not_a_description_that_contradicts_them(tmp_path: Path) -> None:
    graph = build("unet2d", (16, 16, 1), {"base_width": 2})
    weights, batch = perturbed(graph), channels_first(images((16, 16, 1)))
    model = to_onnx(graph, weights)
    norm = next(node for node in model.graph.node if node.op_type == "BatchNormalization")
    next(each for each in norm.attribute if each.name == "epsilon").f = 0.5
    onnx.save(model, tmp_path / "net.onnx")
    read = read_onnx(tmp_path / "net.onnx")
    assert not read.own
    assert "does not describe its nodes" in read.notes[0]
    assert read.graph[norm.name].op == ops.BatchNorm(0.9, 0.5)
    assert np.array_equal(
        outputs(to_onnx(read.graph, read.weights), batch)["probability"], outputs(model, batch)["probability"]
    )


@pytest.mark.parametrize("text", ["", "{}", "[1]", json.dumps({"schema_version": 1, "nodes": [{"op": "Op"}]})])
def test_a_description_that_is_none_is_not_believed(text: str, tmp_path: Path) -> None:
    graph = build("unet2d", (16, 16, 1), {"base_width": 2})
    model = to_onnx(graph, initial_weights(graph, 0))
    model.metadata_props[0].value = text
    onnx.save(model, tmp_path / "net.onnx")
    read = read_onnx(tmp_path / "net.onnx")
    assert not read.own
    assert read.graph.hash == graph.hash  # this network's nodes say all but how weights begin


def test_weights_are_the_files_whatever_the_description_says(tmp_path: Path) -> None:
    graph = build("unet2d", (16, 16, 1), {"base_width": 2})
    model = to_onnx(graph, initial_weights(graph, 0))
    bias = next(each for each in model.graph.initializer if each.name == "enc1_conv1.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([3, 4], np.float32), bias.name))
    onnx.save(model, tmp_path / "net.onnx")
    read = read_onnx(tmp_path / "net.onnx")
    assert read.own
    assert read.weights["enc1_conv1", "bias"].tolist() == [3, 4]
