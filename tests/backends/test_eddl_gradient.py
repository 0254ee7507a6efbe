"""The gradient of a whole U-Net in EDDL against one in float64, by torch's own functions.

Where rounding puts a voxel on the other side of a ReLU's kink, gradients of all float32 engines part by a hundredth
(docs/certification.md). So the reference takes each ReLU's sides from what EDDL computed: what is left is rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mspipeline.backends.base import Execution
from mspipeline.backends.certification.node_errors import gradient_errors
from mspipeline.backends.certification.trial import Trial, TrialBatch, make_trial
from mspipeline.backends.eddl.backend import EddlBackend
from mspipeline.backends.registry import availability
from mspipeline.models.unet2d import unet2d
from mspipeline.network import ops
from mspipeline.network.weights import Weights

torch = pytest.importorskip("torch")


def gradient_in_float64(trial: Trial, batch: TrialBatch, sides: dict[str, np.ndarray]) -> Weights:
    """Of binary cross-entropy, by each weight. sides: by ReLU, (N, rows, columns, C), where it passes its input on."""
    functional = torch.nn.functional

    def channels_first(values: np.ndarray) -> Any:
        return torch.from_numpy(np.moveaxis(values, -1, 1).astype(np.float64))

    weights = {key: torch.tensor(values, dtype=torch.float64) for key, values in trial.weights.items()}
    trained = {key: weights[key].requires_grad_() for key, spec in trial.graph.weights().items() if spec.trainable}
    results: dict[str, Any] = {}
    for node in trial.graph:
        op, inputs = node.op, [results[name] for name in node.inputs]
        match op:
            case ops.Input():
                result = channels_first(batch.images)
            case ops.Conv():
                (top, bottom), (left, right) = op.padding
                kernel, bias = weights[node.name, "kernel"].permute(3, 2, 0, 1), weights.get((node.name, "bias"))
                result = functional.conv2d(functional.pad(inputs[0], (left, right, top, bottom)), kernel, bias)
            case ops.BatchNorm():
                gamma, beta = weights[node.name, "gamma"], weights[node.name, "beta"]
                result = functional.batch_norm(inputs[0], None, None, gamma, beta, training=True, eps=op.epsilon)
            case ops.Relu():
                result = inputs[0] * channels_first(sides[node.name])
            case ops.Dropout(rate=0.0):
                result = inputs[0]
            case ops.MaxPool():
                result = functional.max_pool2d(inputs[0], op.size)
            case ops.Upsample():
                result = functional.interpolate(inputs[0], scale_factor=op.factor)
            case ops.Concat():
                result = torch.cat(inputs, 1)
            case ops.Sigmoid():
                result = torch.sigmoid(inputs[0])
            case _:
                raise NotImplementedError(f"{node.name}: {op}")
        results[node.name] = result
    functional.binary_cross_entropy(results[trial.graph.outputs[0]], channels_first(batch.masks)).backward()
    return {key: weight.grad.numpy() for key, weight in trained.items()}


@pytest.mark.pyeddl
def test_a_unets_gradient_is_that_of_float64_where_its_relus_take_the_same_sides() -> None:
    if problem := availability("pyeddl").problem:
        pytest.skip(problem)
    trial = make_trial(unet2d(64, 64, 1, base_width=8), seed=0)
    backend = EddlBackend()
    backend.build(trial.graph, Execution(device="cpu", threads=1))
    backend.set_weights(trial.weights)
    backend.compile(trial.loss, trial.optimizers[0])
    batch = trial.batches[0]
    given = backend.trace(batch.images, batch.masks, ()).gradients
    relus = [node for node in trial.graph if isinstance(node.op, ops.Relu)]
    sides = {node.name: backend._result(node.inputs[0]) > 0 for node in relus}  # as in the training pass of the trace
    errors = gradient_errors(trial.graph, [gradient_in_float64(trial, batch, sides)], [given])
    head = errors.pop("output")  # nearly all of it cancels behind its normalisation, whose sums EDDL adds one by one
    assert head < 3e-2
    assert max(errors.values()) < 1e-3
