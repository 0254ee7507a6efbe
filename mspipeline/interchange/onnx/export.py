"""A graph with its weights as an ONNX model, and as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mspipeline.errors import DataError
from mspipeline.files import write_bytes
from mspipeline.interchange.onnx.model import Model, load_onnx
from mspipeline.interchange.onnx.nodes import EMIT
from mspipeline.network.graph import Graph
from mspipeline.network.weights import Weights, check_weights

LARGEST_BYTES = 2**31 - 1  # of a protobuf file


def to_onnx(graph: Graph, weights: Weights) -> Any:
    """The `onnx.ModelProto` of a graph, with the graph's JSON in its metadata.

    Inputs and outputs bear their nodes' names. Raises ShapeError where the weights are another graph's, DataError where
    a name is used twice or the model passes the 2 GiB of a protobuf file, BackendError without onnx.
    """
    onnx = load_onnx()
    check_weights(graph, weights, source="weights")
    size = 4 * sum(values.size for values in weights.values())
    if size > LARGEST_BYTES:
        raise DataError(f"{graph.name}: {size / 2**30:.1f} GiB of weights; an ONNX file holds at most 2 GiB")
    model = Model(onnx, graph, weights)
    for node in graph:
        EMIT[type(node.op)](model, node, node.op)
    return model.proto()


def write_onnx(path: Path, graph: Graph, weights: Weights) -> None:
    """Write a graph and its weights, checked by onnx, whole or not at all. Raises what `to_onnx` does, StorageError."""
    model = to_onnx(graph, weights)
    load_onnx().checker.check_model(model, full_check=True)
    write_bytes(path, model.SerializeToString(deterministic=True))
