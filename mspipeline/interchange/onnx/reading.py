"""An ONNX file as a graph with weights: a file of ours gives the very graph it was written from.

A file of ours holds the graph's JSON beside its nodes. It is believed only where exporting that graph, with the file's
weights, gives the file's nodes again; else the nodes are read like a foreign file's, and a note says so.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mspipeline.errors import ConfigError, DataError, SuiteError
from mspipeline.interchange.onnx.export import to_onnx
from mspipeline.interchange.onnx.file import load_model
from mspipeline.interchange.onnx.foreign import READ
from mspipeline.interchange.onnx.layout import restored
from mspipeline.interchange.onnx.model import METADATA_KEY
from mspipeline.interchange.onnx.tensors import Array, Call, Reading, Value, standard
from mspipeline.network.graph import Graph
from mspipeline.network.ops import Input, Shape
from mspipeline.network.weights import Weights, check_weights


@dataclass(frozen=True)
class Imported:
    """What a file holds. opset: the file's. own: whether it is the graph that was exported, names and hash included.

    input_axes, output_axes: of each, for the axes of the file's tensor after the batch, which of ours they are; axes of
    ours that the file lacks are of size 1. batch: the file's, where it is fixed.
    notes: what a user should know, e.g. that the file's description of itself was not believed.
    """

    graph: Graph
    weights: Weights
    opset: int
    own: bool
    input_axes: tuple[tuple[int, ...], ...]
    output_axes: tuple[tuple[int, ...], ...]
    batch: int | None = None
    notes: tuple[str, ...] = ()


def read_onnx(path: Path, shape: Shape | None = None) -> Imported:
    """The network in an ONNX file.

    shape: (C, *spatial) of its image, for a file whose input has open axes beside the batch.
    Raises DataError, naming the node and what is supported, where the file cannot be read as a graph; BackendError
    without onnx.
    """
    model = load_model(path)
    reading = Reading(path, model)
    described = {each.key: each.value for each in model.metadata_props}.get(METADATA_KEY)
    notes = []
    if described is not None:
        if found := _own(reading, described):
            graph, weights = found
            inputs = tuple(standard(len(node.shape)) for node in graph.inputs)
            outputs = tuple(standard(len(graph[name].shape)) for name in graph.outputs)
            return Imported(graph, weights, reading.opset, True, inputs, outputs)
        notes.append(f"{path}: its {METADATA_KEY} does not describe its nodes; the nodes were read")
    graph = _foreign(reading, shape)
    check_weights(graph, reading.weights, source=str(path))
    if reading.fixed_batch is not None:
        notes.append(f"{path}: its batch is fixed at {reading.fixed_batch}; the graph takes any")
    fed = tuple(reading.values[each.name].axes for each in model.graph.input if each.name not in reading.constants)
    made = tuple(reading.values[each.name].axes for each in model.graph.output)
    return Imported(graph, reading.weights, reading.opset, False, fed, made, reading.fixed_batch, tuple(notes))


def _own(reading: Reading, described: str) -> tuple[Graph, Weights] | None:
    """The described graph with the file's weights, where they give the file's nodes again."""
    try:
        graph = Graph.from_json(json.loads(described), name=reading.model.graph.name, where=str(reading.path))
        weights = {
            (node, name): restored(
                graph[node].op, name, reading.constants[f"{node}.{name}"], len(graph.input_shapes(graph[node])[0])
            )
            for node, name in graph.weights()
        }
        again = to_onnx(graph, weights)
    except (SuiteError, ValueError, KeyError, IndexError):
        return None
    same = again.graph == reading.model.graph and list(again.opset_import) == list(reading.model.opset_import)
    return (graph, {key: np.ascontiguousarray(values) for key, values in weights.items()}) if same else None


def _foreign(reading: Reading, shape: Shape | None) -> Graph:
    nodes = _needed(reading)
    _check_operations(reading, nodes)
    for given in reading.model.graph.input:
        if given.name not in reading.constants:
            _input(reading, given, shape, nodes)
    for node in nodes:
        call = Call(reading, node)
        inputs = [name for name in node.input if name]
        if node.op_type == "Shape" and inputs[0] in reading.values:
            sizes = np.array([reading.batch, *reading.shape(call.value())], np.int64)
            start, end = call.attributes.get("start", 0), call.attributes.get("end", len(sizes))
            reading.constants[node.output[0]] = sizes[start:end]
        elif all(name in reading.constants for name in inputs):
            reading.constants.update(_folded(call))
        else:
            _read(call)
    return reading.graph([_output(reading, each.name) for each in reading.model.graph.output])


def _read(call: Call) -> None:
    read = READ.get(call.node.op_type)
    if read is None:
        call.refuse("supported on stored constants alone")
    try:
        read(call)
    except ConfigError as error:  # arguments that our operation does not take
        call.refuse(str(error))


def _needed(reading: Reading) -> list[Any]:
    """The nodes that the outputs depend on, in the file's order."""
    wanted = {output.name for output in reading.model.graph.output}
    nodes = []
    for node in reversed(reading.model.graph.node):
        if wanted & set(node.output):
            wanted.update(node.input)
            nodes.append(node)
    return nodes[::-1]


FOLDED = {
    *("Constant", "ConstantOfShape", "Shape", "Slice", "Div", "Sub", "Floor", "Ceil", "Range", "Sqrt", "Neg"),
    *("Equal", "Where", "Expand"),
}
"""Operations on stored constants and shapes that exporters leave in files, beside those of `READ`."""


def _check_operations(reading: Reading, nodes: list[Any]) -> None:
    """Raise DataError naming every node that cannot be read."""
    unknown = [
        (node.name or node.output[0], f"{node.domain}.{node.op_type}" if node.domain else node.op_type)
        for node in nodes
        if node.domain not in ("", "ai.onnx") or node.op_type not in READ.keys() | FOLDED
    ]
    if unknown:
        named = ", ".join(f"{name!r} ({kind})" for name, kind in unknown[:4]) + (", ..." if len(unknown) > 4 else "")
        raise DataError(
            f"{reading.path}: {len(unknown)} nodes cannot be read: {named}; supported: {', '.join(sorted(READ))}"
        )


def _input(reading: Reading, given: Any, shape: Shape | None, nodes: list[Any]) -> None:
    """An input of the network: channels first, or channels last where all that reads it moves them to the front."""
    kind, where = given.type.tensor_type, f"{reading.path}: input {given.name!r}"
    if kind.elem_type != reading.onnx.TensorProto.FLOAT:
        raise DataError(f"{where} is not of float32, expected float32; export the model with float32 inputs")
    sizes = [each.dim_value if each.HasField("dim_value") else 0 for each in kind.shape.dim]
    if len(sizes) < 2:
        raise DataError(f"{where} has {len(sizes)} axes, expected a batch, channels and spatial axes")
    if shape is not None and len(shape) != len(sizes) - 1:
        raise DataError(
            f"{where} has {len(sizes) - 1} axes beside the batch, but --shape gives {len(shape)}; give (C, *spatial)"
        )
    for axis, size in enumerate(sizes[1:], 1):
        asked = shape[axis - 1] if shape else size
        if size <= 0 and asked <= 0:
            sketch = "x".join(str(each) if each > 0 else "?" for each in sizes[1:])
            name = kind.shape.dim[axis].dim_param
            raise DataError(
                f"{where}: axis {axis} is open{f' ({name})' if name else ''}, expected a fixed size; give all of them "
                f"but the batch: --shape {sketch}"
            )
        if 0 < size != asked:
            raise DataError(f"{where}: axis {axis} is {size}, but --shape gives {asked}")
        sizes[axis] = asked
    if sizes[0] > 0:
        reading.fixed_batch = sizes[0]
    readers = [node for node in nodes if given.name in node.input]
    rank = len(sizes) - 1
    moved = [0, rank, *range(1, rank)]
    last = bool(readers) and all(node.op_type == "Transpose" and _order(node) == moved for node in readers)
    axes = tuple(range(rank)) if last or rank == 1 else standard(rank)
    ours = tuple(sizes[1:]) if last or rank == 1 else (*sizes[2:], sizes[1])
    reading.values[given.name] = Value(reading.add(reading.name(given.name), Input(ours)), axes)


def _order(node: Any) -> list[int]:
    return next((list(each.ints) for each in node.attribute if each.name == "perm"), [])


def _folded(call: Call) -> dict[str, Array]:
    """The results of a node whose inputs are all known, by onnx's own evaluator."""
    onnx, reading = call.reading.onnx, call.reading
    from onnx.reference import ReferenceEvaluator

    known = [onnx.numpy_helper.from_array(reading.constants[name], name) for name in call.node.input if name]
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in call.node.output if name]
    body = onnx.helper.make_graph([call.node], "constant", [], outputs, known)
    model = onnx.helper.make_model(body, opset_imports=reading.model.opset_import)
    try:
        results = ReferenceEvaluator(model).run(None, {})
    except Exception as error:  # its evaluator raises whatever NumPy does
        call.refuse(f"its constants cannot be worked out ({error})")
    return {output.name: np.asarray(result) for output, result in zip(outputs, results, strict=True)}


def _output(reading: Reading, name: str) -> str:
    """The node of an output, as the file means it."""
    if name not in reading.values:
        raise DataError(f"{reading.path}: output {name!r} does not depend on the input, or is not computed")
    value = reading.flat(reading.values[name], name)
    if value.padding:
        raise DataError(f"{reading.path}: output {name!r} is the result of Pad, which is supported before Conv alone")
    if value.places is not None:
        raise DataError(
            f"{reading.path}: output {name!r} is a flattened image, channels first; ours run channels last: "
            "export the network without that Flatten"
        )
    return value.node
