"""What a step computes over the images of a batch, and over those of all processes where a batch is shared out.

TensorFlow and PyTorch run a step of their own in each process, and exchange what is not a mean over images: the sums of
a loss and the moments of batch normalisation. JAX needs none of it: XLA splits one program over the processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class OwnBatch:
    """Sums and means over the batch that this process is given; `counted` is without effect."""

    processes = 1
    counted: Any = 1.0

    def __init__(self, keras: Any) -> None:
        self._ops = keras.ops

    def sum(self, values: Any, axes: tuple[int, ...] | None = None) -> Any:
        """Over `axes`, the images' among them, or over all."""
        return self._ops.sum(values, axes)

    def mean(self, values: Any) -> Any:
        """Over all axes."""
        return self._ops.mean(values)


class JointBatch(OwnBatch):
    """Sums and means over the joint batch, of which every process is given an equal share or, `replicated`, all of it.

    total: values -> their sum over the processes. Backwards it sums the gradients over the processes, too: each of them
    lowers its share of one loss, which is the value given here divided by `processes`. counted: 1, or 1 / processes
    where the batch is whole; set before each step.
    """

    def __init__(self, keras: Any, total: Callable[[Any], Any], rank: int, processes: int) -> None:
        super().__init__(keras)
        self._total, self._rank, self.processes = total, rank, processes

    def sum(self, values: Any, axes: tuple[int, ...] | None = None) -> Any:
        return self._total(super().sum(values, axes) * self.counted)

    def mean(self, values: Any) -> Any:
        return self._total(super().mean(values)) / self.processes

    def of_each(self, values: Any) -> Any:
        """(processes, *shape): every process's values."""
        own = [values if rank == self._rank else self._ops.zeros_like(values) for rank in range(self.processes)]
        return self._total(self._ops.stack(own))

    def normalised(self, layer: Any, x: Any) -> Any:
        """What a batch normalisation layer makes of x, (N, ..., C), in training: moments are the joint batch's.

        Of equal shares, the mean is that of the means, the variance the mean of (variance + square of the distance
        between means): no difference of large sums. Running statistics are updated alike everywhere.
        """
        ops = self._ops
        shares = self.of_each(ops.stack(ops.moments(x, tuple(range(len(x.shape) - 1)))))  # (processes, 2, C)
        mean = ops.mean(shares[:, 0], 0)
        variance = ops.mean(shares[:, 1] + ops.square(shares[:, 0] - mean), 0)
        for running, now in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
            running.assign(running * layer.momentum + ops.stop_gradient(now) * (1 - layer.momentum))
        scale = layer.gamma * ops.rsqrt(variance + layer.epsilon)
        return x * scale + (layer.beta - mean * scale)


def joint_normalisation(own: Any, batch: JointBatch) -> Any:
    """An engine's batch normalisation layer with the moments of the joint batch in training."""

    class BatchNormalization(own):  # type: ignore[misc]
        def call(self, x: Any, training: bool = False) -> Any:
            return batch.normalised(self, x) if training else super().call(x, training=False)

    return BatchNormalization
