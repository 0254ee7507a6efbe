"""Model: an ONNX model under construction, its nodes and constants."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from mspipeline import __version__
from mspipeline.errors import BackendError, DataError
from mspipeline.interchange.onnx.layout import channels_first, stored
from mspipeline.network.graph import Graph, Node
from mspipeline.network.ops import Shape
from mspipeline.network.weights import Weights

OPSET = 18
IR_VERSION = 8  # of the ONNX release that brought opset 18
PRODUCER = "mspipeline"
METADATA_KEY = "mspipeline.graph"


def load_onnx() -> Any:
    """The `onnx` package. Raises BackendError where it is not installed."""
    try:
        import onnx
    except ImportError as error:
        raise BackendError("ONNX files need onnx, not installed here; pip install 'mspipeline[onnx]'") from error
    return onnx


class Model:
    """Collects ONNX nodes and constants."""

    def __init__(self, onnx: Any, graph: Graph, weights: Weights) -> None:
        self._onnx, self.graph, self._weights = onnx, graph, weights
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append an ONNX node and return its result's name."""
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, values: Any) -> str:
        """Keep an array in the file and return its name. Raises DataError where a node bears that name."""
        if name in self._constants or any(name == node.name for node in self.graph):
            raise DataError(f"{self.graph.name}: the name {name!r} is used twice; rename the node that bears it")
        self._constants[name] = self._onnx.numpy_helper.from_array(np.array(values, order="C"), name)
        return name

    def weight(self, node: Node, name: str) -> str:
        """One of a node's weights, in ONNX's layout."""
        values = stored(node.op, name, self._weights[node.name, name], len(self.received(node)))
        return self.constant(f"{node.name}.{name}", values)

    def bias(self, node: Node, *, given: bool) -> list[str]:
        return [self.weight(node, "bias")] if given else []

    def received(self, node: Node) -> Shape:
        """Shape of a node's first input, channels last."""
        return self.graph[node.inputs[0]].shape

    def proto(self) -> Any:
        helper = self._onnx.helper

        def value(name: str) -> Any:
            shape = ["batch", *channels_first(self.graph[name].shape)]
            return helper.make_tensor_value_info(name, self._onnx.TensorProto.FLOAT, shape)

        body = helper.make_graph(
            self._nodes,
            self.graph.name,
            [value(node.name) for node in self.graph.inputs],
            [value(name) for name in self.graph.outputs],
            list(self._constants.values()),
        )
        model = helper.make_model(
            body,
            opset_imports=[helper.make_opsetid("", OPSET)],
            producer_name=PRODUCER,
            producer_version=__version__,
            ir_version=IR_VERSION,
        )
        described = json.dumps(self.graph.to_json(), sort_keys=True, separators=(",", ":"))
        helper.set_model_props(model, {METADATA_KEY: described})
        return model
