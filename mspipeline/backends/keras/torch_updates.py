"""An optimizer's updates on PyTorch's parameters: Adam's by PyTorch's fused kernel, any other's by the suite's rule.

The kernel computes Adam's rule in one pass over memory; the contract tests hold both to the rule in NumPy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from mspipeline.arrays import Arrays
from mspipeline.optimizers import Adam, Optimizer


class Updates(ABC):
    """Updates of parameters by their `grad`, which each takes away; one without stays as it is."""

    @abstractmethod
    def step(self, rate: float) -> None:
        """One update at this learning rate."""

    @abstractmethod
    def kept(self) -> dict[str, Any]:
        """What is kept between steps: tensors, to be written in place, by their names in a checkpoint."""


def updates_of(optimizer: Optimizer, parameters: Mapping[str, Any], arrays: Arrays) -> Updates:
    """The updates of parameters by name. arrays: of the rule."""
    return FusedAdam(optimizer, parameters) if type(optimizer) is Adam else RuleUpdates(optimizer, parameters, arrays)


class RuleUpdates(Updates):
    """The suite's rule, weight by weight."""

    def __init__(self, optimizer: Optimizer, parameters: Mapping[str, Any], arrays: Arrays) -> None:
        import torch

        self._torch, self._arrays, self._optimizer, self._parameters = torch, arrays, optimizer, parameters
        self._steps = torch.zeros((), dtype=torch.int64)
        self._slots = {
            name: tuple(torch.zeros_like(parameter.data) for _ in optimizer.slots)
            for name, parameter in parameters.items()
        }

    def step(self, rate: float) -> None:
        with self._torch.no_grad():
            self._steps += 1
            number = int(self._steps)
            for name, parameter in self._parameters.items():
                if parameter.grad is None:
                    continue
                held = (parameter.data, *self._slots[name])
                weight, slots = self._optimizer.update(self._arrays, held[0], parameter.grad, held[1:], number, rate)
                for tensor, values in zip(held, (weight, *slots), strict=True):
                    tensor.copy_(values)
                parameter.grad = None

    def kept(self) -> dict[str, Any]:
        named = {
            f"optimizer/{name}/{slot}": tensor
            for name, slots in self._slots.items()
            for slot, tensor in zip(self._optimizer.slots, slots, strict=True)
        }
        return {"optimizer/steps": self._steps, **named}


class FusedAdam(Updates):
    """PyTorch's Adam as one kernel.

    On a CPU it goes through memory, whatever the strides: a gradient laid out otherwise than its weight gives a wrong
    update without a word (PyTorch 2.13). So it is given views in the order of memory.
    """

    def __init__(self, adam: Adam, parameters: Mapping[str, Any]) -> None:
        import torch

        self._parameters = parameters
        self._orders = {name: _memory_order(parameter) for name, parameter in parameters.items()}
        self._stored = {
            name: torch.nn.Parameter(parameter.data.permute(self._orders[name]))
            for name, parameter in parameters.items()
        }
        betas = (adam.beta1, adam.beta2)
        self._adam = torch.optim.Adam(self._stored.values(), adam.learning_rate, betas, adam.epsilon, fused=True)
        for parameter in self._stored.values():  # PyTorch would make them in the first step; `kept` is asked before
            self._adam.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    def step(self, rate: float) -> None:
        for group in self._adam.param_groups:
            group["lr"] = rate
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                self._stored[name].grad = parameter.grad.permute(self._orders[name])
                parameter.grad = None
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)

    def kept(self) -> dict[str, Any]:
        """Every parameter has a count of steps, all of them the same."""
        found: dict[str, Any] = {}
        for name, parameter in self._stored.items():
            own = self._adam.state[parameter]
            found |= {f"optimizer/{name}/{part}": own[part] for part in ("step", "exp_avg", "exp_avg_sq")}
        return found


def _memory_order(tensor: Any) -> list[int]:
    """The axes from the largest stride to the smallest; among equals as they are."""
    return sorted(range(tensor.dim()), key=lambda axis: -int(tensor.stride(axis)))
