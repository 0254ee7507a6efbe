"""Errors by node: how far two sets of arrays of one network lie apart.

Each is relative, in the Euclidean norm over all of a node's values: ||other - reference|| / ||reference||. A largest
difference would be decided by single voxels within rounding of a ReLU's kink or of a tie in a max pooling, where the
gradient jumps; in the norm one voxel in a million counts as a thousandth, a fault in every voxel in full. A node's
arrays count together: the gradient of a bias before a normalisation is zero but for rounding, and no error can be
relative to it.

In every function the result is in the graph's order, and an error is infinite where an array is missing, has another
shape or holds what is no finite number.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.network.graph import Graph
from mspipeline.network.weights import Weights

Vector = npt.NDArray[np.float64]
Arrays = Mapping[Any, npt.NDArray[Any]]
Errors = dict[str, float]

GRADIENT_FLOOR = 1e-7
"""Share of the whole gradient's norm: what a node has less is rounding of what the others have."""
STATISTICS_FLOOR = 1e-3
"""Share of a running statistic's norm: a change that is smaller drowns in the statistic's own rounding."""


def keys_by_node(graph: Graph, *, trainable: bool) -> dict[str, list[tuple[str, str]]]:
    """Keys of the weights, by node."""
    found: dict[str, list[tuple[str, str]]] = {}
    for key, spec in graph.weights().items():
        if spec.trainable is trainable:
            found.setdefault(key[0], []).append(key)
    return found


def joined(arrays: Arrays, keys: Sequence[Any]) -> Vector:
    """Arrays as one vector; those that are absent are left out, which makes it too short."""
    parts = [np.asarray(arrays[key], np.float64).ravel() for key in keys if key in arrays]
    return np.concatenate(parts) if parts else np.zeros(0)


def relative_error(reference: Vector, other: Vector, floor: float = 0.0) -> float:
    """||other - reference|| / max(||reference||, floor); 0 for equal ones, zeros among them.

    >>> relative_error(np.array([3.0, 4.0]), np.array([3.0, 4.5]))
    0.1
    """
    if reference.shape != other.shape or not (np.isfinite(reference).all() and np.isfinite(other).all()):
        return math.inf
    difference, size = float(np.linalg.norm(other - reference)), max(float(np.linalg.norm(reference)), floor)
    if difference == 0:
        return 0.0
    return difference / size if size else math.inf


def activation_errors(nodes: Sequence[str], reference: Arrays, other: Arrays) -> Errors:
    """Of what each node gives, with the errors of all nodes before it."""
    return {node: relative_error(joined(reference, [node]), joined(other, [node])) for node in nodes}


def gradient_errors(graph: Graph, reference: Sequence[Weights], other: Sequence[Weights]) -> Errors:
    """Of the loss's gradient by each node's weights: the median over batches."""
    keys = keys_by_node(graph, trainable=True)
    by_batch: list[Errors] = []
    for ours, theirs in zip(reference, other, strict=True):
        norm = math.sqrt(sum(float(np.sum(values.astype(np.float64) ** 2)) for values in ours.values()))
        by_batch.append(
            {n: relative_error(joined(ours, k), joined(theirs, k), GRADIENT_FLOOR * norm) for n, k in keys.items()}
        )
    return {node: statistics.median(errors[node] for errors in by_batch) for node in keys}


def statistics_errors(graph: Graph, before: Weights, reference: Weights, other: Weights) -> Errors:
    """Of what one training step adds to running means and variances."""
    errors = {}
    for node, keys in keys_by_node(graph, trainable=False).items():
        start, ours, theirs = joined(before, keys), joined(reference, keys), joined(other, keys)
        if ours.shape != start.shape or theirs.shape != start.shape:
            errors[node] = math.inf
            continue
        errors[node] = relative_error(ours - start, theirs - start, STATISTICS_FLOOR * float(np.linalg.norm(start)))
    return errors


def loss_error(reference: Sequence[float], other: Sequence[float]) -> float:
    """|other - reference| by the reference, or by 1, a mean logarithm's size, if that is more; of the worst batch."""
    errors = [abs(theirs - ours) / max(abs(ours), 1.0) for ours, theirs in zip(reference, other, strict=True)]
    return max(error if math.isfinite(error) else math.inf for error in errors)
