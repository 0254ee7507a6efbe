"""ONNX Runtime adapter, for prediction alone: a graph is exported in memory and run; nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np

from mspipeline.backends.base import Backend, Execution, FloatArray, State, StepResult, Trace
from mspipeline.errors import BackendError
from mspipeline.interchange.onnx.export import to_onnx
from mspipeline.interchange.onnx.nodes import EMIT
from mspipeline.losses import Loss
from mspipeline.network import ops
from mspipeline.network.graph import Graph
from mspipeline.network.weights import Weights, check_weights, initial_weights
from mspipeline.optimizers import Optimizer

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
ERRORS_ALONE = 3  # of its log: what matters arrives as an exception


class OnnxRuntimeBackend(Backend):
    """ONNX Runtime; the session is made anew at the first prediction after weights were set."""

    name = "onnxruntime"
    operations: ClassVar[frozenset[type[ops.Op]]] = frozenset(EMIT)
    can_train: ClassVar[bool] = False

    def build(self, graph: Graph, execution: Execution) -> None:
        self.check(graph)
        import onnxruntime

        self._runtime, self._graph, self._threads = onnxruntime, graph, execution.threads
        self._provider = _choose_provider(onnxruntime.get_available_providers(), execution.device)
        self._weights = initial_weights(graph, execution.seed)
        self._session: Any = None

    @property
    def device(self) -> str:
        return "GPU" if self._provider == CUDA else "CPU"

    def predict(self, images: FloatArray) -> FloatArray:
        if self._session is None:
            self._session = self._started()
        (source, *_), (output, *_) = self._graph.inputs, self._graph.outputs
        fed = np.ascontiguousarray(np.moveaxis(images, -1, 1), np.float32)  # (N, *spatial, C) -> (N, C, *spatial)
        (result,) = self._session.run([output], {source.name: fed})
        return np.ascontiguousarray(np.moveaxis(result, 1, -1))  # and back

    def _started(self) -> Any:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ALONE
        model = to_onnx(self._graph, self._weights).SerializeToString()
        return self._runtime.InferenceSession(model, options, providers=[self._provider])

    def weights(self) -> Weights:
        return {key: values.copy() for key, values in self._weights.items()}

    def set_weights(self, weights: Weights) -> None:
        check_weights(self._graph, weights, source="weights")
        self._weights = {key: values.copy() for key, values in weights.items()}
        self._session = None

    def compile(self, loss: Loss, optimizer: Optimizer) -> None:
        _refuse()

    def train_step(
        self, images: FloatArray, masks: FloatArray, rate: float | None = None, *, replicated: bool = False
    ) -> StepResult:
        _refuse()

    def evaluate_step(self, images: FloatArray, masks: FloatArray, *, replicated: bool = False) -> StepResult:
        _refuse()

    def trace(self, images: FloatArray, masks: FloatArray, nodes: Sequence[str]) -> Trace:
        _refuse()

    def state(self) -> State:
        _refuse()

    def set_state(self, state: State) -> None:
        _refuse()


def run_file(path: Path, inputs: Sequence[FloatArray], threads: int) -> list[FloatArray]:
    """The outputs of an ONNX file on the CPU, in its own layout. inputs: in the file's order.

    Raises BackendError without onnxruntime or where it cannot run the file.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError("onnxruntime is not installed here; pip install 'mspipeline[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = ERRORS_ALONE
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[CPU])
        names = [each.name for each in session.get_inputs()]
        return list(session.run(None, dict(zip(names, inputs, strict=True))))
    except Exception as error:  # its classes are all its own, below Exception
        raise BackendError(f"{path}: onnxruntime cannot run it ({str(error).splitlines()[0]})") from error


def _refuse() -> NoReturn:
    raise BackendError("onnxruntime predicts only; train on tensorflow, torch, jax or pyeddl")


def _choose_provider(present: Sequence[str], wanted: str) -> str:
    """The execution provider to use. Raises BackendError where a GPU is wanted and there is none for it."""
    if wanted == "gpu" and CUDA not in present:
        raise BackendError("onnxruntime sees no GPU here; use --device cpu, or install onnxruntime-gpu")
    return CUDA if CUDA in present and wanted != "cpu" else CPU
