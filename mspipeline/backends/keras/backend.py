"""Keras 3 adapter: a graph becomes a functional Keras model; the engine below it is chosen once per process.

Layers are in `layers`, steps in `tensorflow`, `torch`, `jax`, what processes that share a batch
exchange in `joint`.
"""

from __future__ import annotations

import importlib
import os
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mspipeline.backends.base import Backend, Execution, FloatArray, State, Trace, loss_nodes
from mspipeline.backends.dropout_masks import DRAWS, DropoutMasks
from mspipeline.backends.keras import layers as keras_layers
from mspipeline.backends.keras.joint import OwnBatch
from mspipeline.backends.process_group import ProcessGroup
from mspipeline.backends.user_settings import keras_on, put_aside
from mspipeline.errors import BackendError, ShapeError
from mspipeline.files import nameless_file
from mspipeline.losses import Loss
from mspipeline.network import ops
from mspipeline.network.graph import Graph
from mspipeline.network.weights import Weights, check_weights
from mspipeline.optimizers import Optimizer

LossFunction = Callable[[Any, list[Any]], Any]
"""(masks, a model's outputs) -> scalar."""


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Hold back what native code writes to file descriptor 2; shown after all where the block raises.

    TensorFlow's libraries log about their own build before any log level can reach them.
    """
    with suppress(OSError):  # a stderr that takes nothing
        sys.stderr.flush()
    saved = os.dup(2)
    with nameless_file() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            with suppress(OSError):
                os.write(saved, held.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def load_keras(engine: str) -> Any:
    """Keras on this engine. Raises BackendError where another engine runs in this process already."""
    if "keras" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what matters arrives as an exception
        with keras_on(engine, os.environ):
            with _quiet_stderr():
                importlib.import_module(engine)
            importlib.import_module("keras")
    import keras

    # Again, for something may have loaded Keras before us, a sitecustomize, say.
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    running = keras.config.backend()
    if running != engine:
        raise BackendError(f"Keras already runs on {running} in this process; start {engine} in a process of its own")
    return keras


def keras_optimizer(keras: Any, optimizer: Optimizer) -> Any:
    """A Keras optimizer that holds the slots as its variables and evaluates the suite's rule."""
    ops = keras.ops

    class RuleOptimizer(keras.optimizers.Optimizer):
        def build(self, variables: Any) -> None:
            if self.built:
                return
            super().build(variables)
            self._slots = [
                [self.add_variable_from_reference(variable, name=slot) for variable in variables]
                for slot in optimizer.slots
            ]

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            step, rate = (ops.cast(number, variable.dtype) for number in (self.iterations + 1, learning_rate))
            position = self._get_variable_index(variable)
            held = [slot[position] for slot in self._slots]
            # TensorFlow's variable comes bare, JAX's as Keras' own.
            values = [ops.convert_to_tensor(each) for each in (variable, *held)]
            weight, slots = optimizer.update(ops, values[0], gradient, tuple(values[1:]), step, rate)
            for each, new in zip((*held, variable), (*slots, weight), strict=True):
                self.assign(each, new)

    return RuleOptimizer(optimizer.learning_rate, name=optimizer.name)


class KerasBackend(Backend):
    """What the engines share: model, names, weights and state. An engine adds device, threads and compiled steps.

    A variable's values are a Keras variable's own, unless an engine keeps them elsewhere: `_read` and `_write` know.
    """

    operations: ClassVar[frozenset[type[ops.Op]]] = frozenset(keras_layers.REALISE)
    supports_data_parallel: ClassVar[bool] = True

    def build(self, graph: Graph, execution: Execution) -> None:
        self.check(graph)
        self._group = execution.group
        put_aside(os.environ)
        self._before_loading(execution)
        self._keras = load_keras(self.name)
        self._graph = graph
        with self._with_others():
            self._configure(execution)
        self._batch = self._batch_of_group()
        self._dropout = DropoutMasks(graph, execution.seed, execution.group)
        with self._placed():
            self._model = keras_layers.realise(self._toolkit(), graph)
        self._optimizer: Any = None
        self._make_prediction()

    def compile(self, loss: Loss, optimizer: Optimizer) -> None:
        taken, given = loss_nodes(self._graph, loss), tuple(self._graph.outputs)
        loss.check([self._graph[name].shape for name in taken])
        arrays, batch = self._keras.ops, self._batch
        self._loss: LossFunction = lambda masks, outputs: loss.value(arrays, batch, masks, outputs[-len(taken) :])
        self._trained = self._model if taken == given else self._with_outputs((*given, *taken))
        with self._placed():
            self._make_steps(optimizer)

    def _before_loading(self, execution: Execution) -> None:
        """What an engine reads only once, when it is loaded."""

    @abstractmethod
    def _configure(self, execution: Execution) -> None:
        """Device, threads, determinism, the group's meeting. Raises BackendError where they are not to be had here."""

    def _batch_of_group(self) -> OwnBatch:
        """What sums and means run over."""
        return OwnBatch(self._keras)

    @abstractmethod
    def _lost(self, error: Exception) -> bool:
        """Whether the engine says by this that another process does not answer."""

    @abstractmethod
    def _gather_words(self, words: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """(processes, n) of every process's (n,), by rank."""

    @contextmanager
    def _with_others(self) -> Iterator[None]:
        """For what processes of a group do together: PeersLost where one of them does not answer."""
        try:
            yield
        except Exception as error:
            if self._group.size > 1 and self._lost(error):
                raise self._group.lost(error) from error
            raise

    @abstractmethod
    def _placed(self) -> AbstractContextManager[Any]:
        """In it, Keras makes and computes everything on the chosen device."""

    @abstractmethod
    def _make_prediction(self) -> None:
        """Compile the forward pass."""

    @abstractmethod
    def _make_steps(self, optimizer: Optimizer) -> None:
        """Compile the steps, with `self._loss`."""

    @abstractmethod
    def _activations(self, images: FloatArray, nodes: Sequence[str]) -> dict[str, FloatArray]:
        """Of these nodes in inference mode."""

    @abstractmethod
    def _loss_and_gradients(self, images: FloatArray, masks: FloatArray) -> tuple[float, list[FloatArray]]:
        """Of one pass in training mode, by the model's trainable variables; nothing else changes."""

    def _with_outputs(self, nodes: Sequence[str]) -> Any:
        """The model with these nodes' values as its outputs."""
        model = self._model
        return self._keras.Model(model.inputs[0], [model.get_layer(node).output for node in nodes])

    def _drop(self, masks: Sequence[Any]) -> None:
        """Give the dropout layers the masks of the pass in training mode that follows, in the order of their nodes."""
        for node, mask in zip(self._dropout.nodes, masks, strict=True):
            self._model.get_layer(node).mask = mask

    def _toolkit(self) -> Any:
        """What `layers` takes layers from: Keras, or Keras with layers of the engine's own."""
        return self._keras

    @abstractmethod
    def _read(self, variable: Any) -> Any:
        """A copy of a variable's values, for NumPy."""

    def _write(self, variable: Any, values: Any) -> None:
        variable.assign(values)

    def trace(self, images: FloatArray, masks: FloatArray, nodes: Sequence[str]) -> Trace:
        with self._placed():
            activations = self._activations(images, nodes) if nodes else {}
            loss, gradients = self._loss_and_gradients(images, masks)
        names = {id(variable): key for key, variable in self._variables().items()}
        keys = [names[id(variable)] for variable in self._model.trainable_variables]
        return Trace(
            activations,
            loss,
            {key: keras_layers.other_layout(self._graph, key, g) for key, g in zip(keys, gradients, strict=True)},
        )

    def _variables(self) -> dict[tuple[str, str], Any]:
        """Keras variables by (node, our name of the weight)."""
        return {
            (layer.name, keras_layers.WEIGHT_NAMES.get(variable.name, variable.name)): variable
            for layer in self._model.layers
            for variable in layer.weights
        }

    def weights(self) -> Weights:
        return {
            key: np.ascontiguousarray(keras_layers.other_layout(self._graph, key, self._read(variable)))
            for key, variable in self._variables().items()
        }

    def set_weights(self, weights: Weights) -> None:
        check_weights(self._graph, weights, source="weights")
        for key, variable in self._variables().items():
            self._write(variable, keras_layers.other_layout(self._graph, key, weights[key]))

    def _state_variables(self) -> dict[str, Any]:
        """The optimizer's variables by name."""
        return {f"optimizer/{variable.path}": variable for variable in self._optimizer.variables}

    def state(self) -> State:
        moments = {name: self._read(variable) for name, variable in self._state_variables().items()}
        return {**moments, **self._dropout.state()}

    def set_state(self, state: State) -> None:
        variables = self._state_variables()
        self._check_state(variables, {name: each for name, each in state.items() if name != DRAWS})
        self._dropout.set_state(state.get(DRAWS))
        for name, variable in variables.items():
            self._write(variable, state[name])

    def gather(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        if self._group.size == 1:
            return values[None]
        data = np.ascontiguousarray(values).tobytes()
        words = np.frombuffer(data.ljust(-(-len(data) // 4) * 4, b"\0"), np.int32)  # whatever type: no engine has all
        with self._with_others():
            gathered = self._gather_words(words)
        rows = [np.frombuffer(row.tobytes()[: len(data)], values.dtype) for row in np.asarray(gathered)]
        return np.stack(rows).reshape(-1, *values.shape)

    def _check_state(self, own: Mapping[str, Any], state: State) -> None:
        """Raise ShapeError where names or shapes differ from this network's."""
        differing = sorted(own.keys() ^ state.keys())
        differing += [name for name in own.keys() & state.keys() if tuple(own[name].shape) != state[name].shape]
        if differing:
            raise ShapeError(
                f"optimizer state of another network: {len(differing)} entries differ ({differing[0]}, ...); "
                "resume the run that wrote it"
            )


def as_list(outputs: Any) -> list[Any]:
    """A model's outputs: Keras gives a single one bare."""
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]


def own_gpu(gpus: Sequence[Any], group: ProcessGroup) -> Any:
    """This process's of the GPUs that it sees. Raises BackendError where there are fewer than processes."""
    if group.gpu >= len(gpus):
        raise BackendError(
            f"{group.name}: its GPU would be number {group.gpu + 1} of this node, which shows it {len(gpus)}; "
            "start as many processes a node as it has GPUs"
        )
    return gpus[group.gpu]


def no_gpu(engine: str) -> BackendError:
    """For where a GPU is wanted and none is seen."""
    return BackendError(f"{engine} sees no GPU here; use --device cpu, or run where `mspipeline doctor` lists one")


def threads_are_set(engine: str, running: int, wanted: int) -> BackendError:
    """For where the engine has begun with another number of threads."""
    return BackendError(
        f"{engine} already runs with {running} threads in this process, asked for {wanted}; "
        "start it in a process of its own"
    )
