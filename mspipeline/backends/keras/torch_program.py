"""Program: a Keras model's layers as a list of plain calls, for an engine that runs them one by one.

Keras does much around each layer's `call` (binding arguments, masks, scopes): 0.2 ms a layer, 6 % of a small U-Net's
training step on 2 cores. Here it is left out, results are dropped after their last use, an activation that alone uses
a result is computed in its place, and axes stay (N, C, ...) between layers that have a `first` (`torch_layers`).
"""

from __future__ import annotations

import inspect
from collections import Counter
from dataclasses import dataclass
from typing import Any

from mspipeline.backends.keras.torch_layers import channels_first, channels_last


@dataclass(frozen=True)
class _Call:
    """One layer's. inputs, output: numbers of results. options: beside `training`. several: it takes a list.

    first: it takes and gives (N, C, ...).
    """

    function: Any
    inputs: tuple[int, ...]
    output: int
    first: bool
    several: bool
    training: bool
    options: dict[str, Any]


class Program:
    """What `model` computes, (N, ..., C) -> (N, ..., C) of each output.

    in_place: by class of an activation layer, what gives the function that overwrites its argument; it is handed to the
    layer before where that takes `activation`.
    """

    def __init__(self, model: Any, in_place: dict[str, Any]) -> None:
        layers = [layer for layer in model.layers if layer is not model.get_layer(model.inputs[0].name)]
        self._numbers: dict[int, int] = {}
        self._source = self._number(model.inputs[0])
        self._outputs = [self._number(tensor) for tensor in model.outputs]
        users: dict[int, list[Any]] = {}
        for layer in layers:
            for tensor in _tensors(layer.input):
                users.setdefault(id(tensor), []).append(layer)
        merged: set[int] = set()
        self._calls: list[_Call] = []
        for layer in layers:
            if id(layer) in merged:
                continue
            function = getattr(layer, "first", layer.call)
            takes, output, options = inspect.signature(function).parameters, layer.output, {}
            followers = users.get(id(output), [])
            alone = len(followers) == 1 and self._numbers.get(id(output)) not in self._outputs
            if "activation" in takes and alone and type(followers[0]).__name__ in in_place:
                options["activation"] = in_place[type(followers[0]).__name__](followers[0])
                merged.add(id(followers[0]))
                output = followers[0].output
            inputs, several = tuple(map(self._number, _tensors(layer.input))), isinstance(layer.input, list)
            call = _Call(
                function, inputs, self._number(output), hasattr(layer, "first"), several, "training" in takes, options
            )
            self._calls.append(call)
        self._uses = Counter(number for call in self._calls for number in call.inputs) + Counter(self._outputs)

    def _number(self, tensor: Any) -> int:
        return self._numbers.setdefault(id(tensor), len(self._numbers))

    def __call__(self, image: Any, *, training: bool) -> list[Any]:
        """The outputs, in the model's order."""
        results: dict[int, tuple[bool, Any]] = {self._source: (False, image)}
        left = self._uses.copy()

        def take(number: int, first: bool) -> Any:
            is_first, value = results[number]
            left[number] -= 1
            if not left[number]:
                del results[number]
            if is_first == first or value.ndim < 3:  # (N, C) is in either order
                return value
            return channels_first(value) if first else channels_last(value)

        for call in self._calls:
            given = [take(number, call.first) for number in call.inputs]
            options = {**call.options, "training": training} if call.training else call.options
            # `given` must not outlive the call: what is dropped here would stay in memory.
            result = call.function(given if call.several else given.pop(), **options)
            results[call.output] = (call.first, result)
        return [take(number, False) for number in self._outputs]


def _tensors(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given]
