"""ONNX files that cannot be read: one line each, with what to do; and unusual ones that can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mspipeline.errors import DataError
from mspipeline.interchange.onnx import read_onnx, to_onnx, write_onnx
from mspipeline.models.catalogue import build
from mspipeline.network.graph import Graph
from mspipeline.network.weights import initial_weights

onnx = pytest.importorskip("onnx")

GRAPH = build("unet2d", (16, 32, 1), {"base_width": 2})
WEIGHTS = initial_weights(GRAPH, 0)


@pytest.fixture
def model() -> Any:
    """The network as others would write it: nothing says what graph it was."""
    made = to_onnx(GRAPH, WEIGHTS)
    del made.metadata_props[:]
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "net.onnx"


def refused(file: Path, words: str) -> None:
    with pytest.raises(DataError, match=rf"^{file}: {words}") as caught:
        read_onnx(file)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 65


def test_a_file_that_is_not_there(file: Path) -> None:
    refused(file, r"cannot be read \(No such file or directory\), expected an ONNX file")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.9999])
def test_a_truncated_file(share: float, file: Path) -> None:
    write_onnx(file, GRAPH, WEIGHTS)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    refused(file, "truncated or not an ONNX file .*; export it again")


def test_a_file_of_something_else(file: Path) -> None:
    file.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(500))
    refused(file, "truncated or not an ONNX file")


def test_an_invalid_graph(file: Path, model: Any) -> None:
    model.graph.node[3].input[0] = "nobody"
    onnx.save(model, file)
    refused(file, "not a valid ONNX file .*nobody")


@pytest.mark.parametrize(
    ("opset", "words"),
    [(9, "opset 9 is too old, expected 11 to .*; export it again at opset 18"), (999, "opset 999 is newer")],
)
def test_an_opset_that_is_not_read(opset: int, words: str, file: Path, model: Any) -> None:
    model.opset_import[0].version = opset
    onnx.save(model, file)
    refused(file, words)


def test_open_sizes_are_named_by_axis_and_filled_by_shape(file: Path, model: Any) -> None:
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[2].dim_param = "height"
    dims[3].ClearField("dim_value")
    onnx.save(model, file)
    refused(file, r"input 'image': axis 2 is open \(height\), expected a fixed size; .*: --shape 1x\?x\?")
    assert read_onnx(file, (1, 16, 32)).graph.hash == GRAPH.hash
    assert read_onnx(file, (1, 32, 32)).graph.inputs[0].shape == (32, 32, 1)
    with pytest.raises(DataError, match=r"input 'image': axis 1 is 1, but --shape gives 2"):
        read_onnx(file, (2, 16, 32))
    with pytest.raises(DataError, match=r"has 3 axes beside the batch, but --shape gives 2; give \(C, \*spatial\)"):
        read_onnx(file, (16, 32))
    with pytest.raises(DataError, match=r"node 'dec\d_concat' \(Concat\): Concat needs inputs of one spatial size"):
        read_onnx(file, (1, 20, 32))


def test_a_fixed_batch_is_noted(file: Path, model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, file)
    read = read_onnx(file)
    assert read.batch == 4
    assert read.notes == (f"{file}: its batch is fixed at 4; the graph takes any",)


def test_an_input_of_another_type(file: Path, model: Any) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    onnx.save(model, file)
    refused(file, "input 'image' is not of float32")


def test_weights_in_a_file_beside_it(file: Path, model: Any) -> None:
    onnx.save(model, file, save_as_external_data=True, location="net.data", size_threshold=0)
    read = read_onnx(file)
    assert all(np.array_equal(read.weights[key], WEIGHTS[key]) for key in WEIGHTS)
    data = file.with_name("net.data")
    data.write_bytes(data.read_bytes()[:100])
    refused(file, "weights? ")
    data.unlink()
    refused(file, r"\d+ weights lie in net\.data, not found beside it; copy that file to ")


def test_weights_that_are_inputs_with_a_default_are_weights(file: Path, model: Any) -> None:
    """As exporters before IR version 4 wrote every one of them."""
    for tensor in model.graph.initializer:
        shown = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.append(shown)
    onnx.save(model, file)
    read = read_onnx(file)
    assert read.graph.hash == GRAPH.hash
    assert all(np.array_equal(read.weights[key], WEIGHTS[key]) for key in WEIGHTS)


def test_a_weight_that_is_fed_is_refused(file: Path, model: Any) -> None:
    (kernel,) = [each for each in model.graph.initializer if each.name == "enc1_conv1.kernel"]
    model.graph.initializer.remove(kernel)
    model.graph.input.append(onnx.helper.make_tensor_value_info(kernel.name, kernel.data_type, kernel.dims))
    onnx.save(model, file)
    refused(file, r"node 'enc1_conv1' \(Conv\): 'enc1_conv1\.kernel' is computed or fed, expected a stored weight")


def test_functions_are_inlined(file: Path, model: Any) -> None:
    helper = onnx.helper
    twice = helper.make_function(
        "mine", "Act", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    model.functions.append(twice)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type, node.domain = "Act", "mine"
    onnx.save(model, file)
    read = read_onnx(file)
    assert read.graph.hash == GRAPH.hash


def test_a_graph_comes_back_from_its_json_and_no_other_does() -> None:
    document = GRAPH.to_json()
    assert Graph.from_json(document, name="unet2d", where="here") == GRAPH
    wrong: Any
    for wrong in (
        [],
        {**document, "schema_version": 9},
        {**document, "outputs": ["nobody"]},
        {**document, "nodes": [{"name": "x", "inputs": [], "op": "Shape"}]},
        {**document, "nodes": [{"name": "x", "inputs": [], "op": "Input", "size": [1]}]},
    ):
        with pytest.raises(DataError, match=r"^here: not a graph that this version can read"):
            Graph.from_json(wrong, name="wrong", where="here")
