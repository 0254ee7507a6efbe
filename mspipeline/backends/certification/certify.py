"""Certify: do two backends compute the same network? Their evidence of one trial, compared node by node."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from mspipeline.arrays import NUMPY
from mspipeline.backends.certification.evidence import Evidence
from mspipeline.backends.certification.node_errors import (
    Errors,
    Vector,
    activation_errors,
    gradient_errors,
    joined,
    keys_by_node,
    loss_error,
    relative_error,
    statistics_errors,
)
from mspipeline.backends.certification.trial import Trial
from mspipeline.network.graph import Graph
from mspipeline.optimizers import Optimizer

TOLERANCE = {
    "forward": 3e-5,
    "statistics": 1e-3,
    "loss": 5e-5,
    "gradient": 1e-2,
    "step": 1e-3,
}
"""Largest error that counts as float32's rounding, but for what `MARGIN` adds; measured ones: docs/certification.md.

forward: float32 rounds to 6e-8; sums of some thousand terms in another order differ by some 1e-7, and a hundred layers
    add up to some 1e-6.
statistics: what one step adds to running means and variances is a tenth or a hundredth of them, so that their own
    rounding weighs ten or a hundred times as much.
loss: of one number, a mean over many voxels.
gradient: a voxel that rounding puts on the other side of a ReLU's kink changes it by about 1 / sqrt(voxels of the
    map). Among 1e4 values one lies within 1e-6 of the kink once in a hundred times; in larger maps it is usual, and
    changes less than this.
step: of each optimizer: the weights' own rounding is 1e-5 of a step of 0.01 (`trial.STEPS`); what the gradients'
    difference explains, by the optimizer's rule, is not counted again.
"""
MARGIN = 5.0
"""In training mode rounding grows from layer to layer, how much depends on the network: batch normalisation enlarges it
where a channel hardly varies. So the tolerance of loss and gradient is at least this many times what the reference
itself changes by when its weights and pixels are shaken (`trial.SHAKE`): at the node or, if that is more, at half of
all nodes."""
CEILING = 0.3
"""No tolerance is larger: a gradient that is off by a factor of 2, or another's, has an error of 0.5 or more."""
CLEAR = 5.0
"""A weight's step is compared where its gradient is this many times what the two gradients differ by there, and this
many times the node's tolerance in units of its root mean square: nearer to zero, rounding may turn its sign, and with
it the whole first step of an optimizer whose `sign_decides` it, Adam or Adadelta. Of SGD, say, none is left out."""


@dataclass(frozen=True)
class Agreement:
    """How well two backends agree in one quantity: a key of `TOLERANCE`, the step with its optimizer: "step_adam".

    worst: the node that uses up most of its tolerance, with its error and that tolerance; an error is infinite where a
    value is missing or no number. begins: the first node above its tolerance in the direction of the computation, None
    where all agree. nodes: how many were compared. left_out: numbers that were not, of `of`.
    """

    quantity: str
    worst: str
    error: float
    tolerance: float
    begins: str | None
    nodes: int
    left_out: int = 0
    of: int = 0

    @property
    def agrees(self) -> bool:
        return self.begins is None


def compare(trial: Trial, reference: Evidence, other: Evidence) -> tuple[Agreement, ...]:
    """Agreement in every quantity, in the order in which a fault shows itself first."""
    graph, start, sensitivity = trial.graph, trial.weights, reference.sensitivity
    out = graph.outputs[0]
    gradients = gradient_errors(graph, reference.gradients, other.gradients)
    allowed = tolerances("gradient", sensitivity.gradient)
    stepped = next(iter(reference.stepped))
    found = (
        _judge("forward", activation_errors(trial.nodes, reference.activations, other.activations)),
        _judge("statistics", statistics_errors(graph, start, reference.stepped[stepped], other.stepped[stepped])),
        _judge("loss", {out: loss_error(reference.losses, other.losses)}, tolerances("loss", {out: sensitivity.loss})),
        _judge("gradient", _backwards(gradients), allowed),
        *(_judge_step(trial, optimizer, reference, other, allowed) for optimizer in trial.optimizers),
    )
    return tuple(each for each in found if each is not None)


def tolerances(quantity: str, sensitivity: Errors) -> dict[str, float]:
    """The tolerance at each node of a quantity in training mode. sensitivity: of the reference, by node."""
    half = statistics.median(sensitivity.values()) if sensitivity else 0.0
    return {node: min(max(TOLERANCE[quantity], MARGIN * max(own, half)), CEILING) for node, own in sensitivity.items()}


def describe(findings: Iterable[Agreement], graph: Graph) -> str:
    """Where a difference begins, in words; empty where all agree."""
    for found in findings:
        if found.begins is not None:
            place = f"{found.begins} ({type(graph[found.begins].op).__name__})"
            return (
                f"{found.quantity} differs from {place} on; worst at {found.worst}: error {found.error:.1e}, "
                f"tolerance {found.tolerance:.0e}"
            )
    return ""


def _backwards(errors: Errors) -> Errors:
    return {node: errors[node] for node in reversed(errors)}


def _step_errors(
    trial: Trial, optimizer: Optimizer, reference: Evidence, other: Evidence, allowed: Mapping[str, float]
) -> tuple[Errors, int, int]:
    """By node; then numbers that are left out, and how many there are. allowed: tolerances of the gradient.

    What the gradients' own difference makes of a step, by the optimizer's rule, is not counted a second time.
    """
    stepped, its_stepped = (each.stepped.get(optimizer.name, {}) for each in (reference, other))
    errors, left_out, of = {}, 0, 0
    for node, keys in keys_by_node(trial.graph, trainable=True).items():
        before = joined(trial.weights, keys)
        ours, theirs = joined(stepped, keys), joined(its_stepped, keys)
        slope, its_slope = joined(reference.gradients[0], keys), joined(other.gradients[0], keys)
        of += before.size
        if {before.shape} != {each.shape for each in (ours, theirs, slope, its_slope)}:
            errors[node] = math.inf
            continue
        doubt = np.maximum(np.abs(its_slope - slope), allowed[node] * math.sqrt(float(np.mean(slope**2))))
        clear = np.abs(slope) > CLEAR * doubt if optimizer.sign_decides else np.ones(slope.shape, np.bool_)
        left_out += int(np.count_nonzero(~clear))
        explained = _first_step(optimizer, before, its_slope) - _first_step(optimizer, before, slope)
        errors[node] = relative_error((ours - before)[clear], (theirs - before - explained)[clear])
    return errors, left_out, of


def _first_step(optimizer: Optimizer, before: Vector, gradient: Vector) -> Vector:
    """What an optimizer's first step adds to weights, by its rule."""
    slots = tuple(np.zeros_like(before) for _ in optimizer.slots)
    weight, _ = optimizer.update(NUMPY, before, gradient, slots, 1, optimizer.learning_rate)
    added: Vector = weight - before
    return added


def _judge_step(
    trial: Trial, optimizer: Optimizer, reference: Evidence, other: Evidence, allowed: Mapping[str, float]
) -> Agreement | None:
    errors, left_out, of = _step_errors(trial, optimizer, reference, other, allowed)
    found = _judge("step", _backwards(errors), left_out=left_out, of=of)
    return None if found is None else replace(found, quantity=f"step_{optimizer.name}")


def _judge(
    quantity: str, errors: Errors, allowed: Mapping[str, float] | None = None, *, left_out: int = 0, of: int = 0
) -> Agreement | None:
    """errors: by node, in the direction of the computation; None comes of none."""
    if not errors:
        return None
    bounds = {node: TOLERANCE[quantity] if allowed is None else allowed[node] for node in errors}
    worst = max(errors, key=lambda node: errors[node] / bounds[node])
    begins = next((node for node, error in errors.items() if not error <= bounds[node]), None)
    return Agreement(quantity, worst, errors[worst], bounds[worst], begins, len(errors), left_out, of)
