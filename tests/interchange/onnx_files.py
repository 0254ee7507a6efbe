"""What the tests of ONNX files share: running a file, and weights that make a network tell its layers apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from mspipeline.network.graph import Graph
from mspipeline.network.weights import Weights, initial_weights


def session(model: Any) -> Any:
    """An onnxruntime session of a model in memory, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def outputs(model: Any, *inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Every output by name, in the file's layout."""
    running = session(model)
    names = [each.name for each in running.get_outputs()]
    fed = {each.name: values for each, values in zip(running.get_inputs(), inputs, strict=True)}
    return dict(zip(names, running.run(names, fed), strict=True))


def channels_first(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(images, -1, 1))


def perturbed(graph: Graph) -> Weights:
    """Initial weights, those that begin as constants moved from them; variances positive."""
    rng = np.random.default_rng(4)
    weights = {}
    for key, values in initial_weights(graph, 0).items():
        moved = values if key[1] == "kernel" else (values + 0.1 * rng.standard_normal(values.shape)).astype("f4")
        weights[key] = abs(moved) + 0.2 if key[1] == "variance" else moved
    return weights


def images(shape: tuple[int, ...], count: int = 2) -> np.ndarray:
    return np.random.default_rng(8).standard_normal((count, *shape), np.float32)
