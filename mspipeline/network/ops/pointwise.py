"""Operations that keep the shape: normalisations, activations, dropout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mspipeline.errors import ConfigError
from mspipeline.network.ops.operation import Pointwise, Shape, WeightSpec, one_input


@dataclass(frozen=True)
class BatchNorm(Pointwise):
    """Batch normalisation over all axes but channels (Ioffe & Szegedy 2015), with gamma and beta.

    momentum: share of the running mean and (biased) variance that is kept at each step. epsilon: added to the
    variance, inside the root.
    """

    momentum: float
    epsilon: float

    def weights(self, inputs: Sequence[Shape]) -> dict[str, WeightSpec]:
        channels = (inputs[0][-1],)
        return {
            "gamma": WeightSpec(channels, "ones"),
            "beta": WeightSpec(channels, "zeros"),
            "mean": WeightSpec(channels, "zeros", trainable=False),
            "variance": WeightSpec(channels, "ones", trainable=False),
        }


@dataclass(frozen=True)
class InstanceNorm(Pointwise):
    """Normalisation over the spatial axes of each image and channel (Ulyanov et al. 2016), with gamma and beta.

    epsilon: added to the (biased) variance, inside the root. Training and inference compute the same.
    """

    epsilon: float

    def weights(self, inputs: Sequence[Shape]) -> dict[str, WeightSpec]:
        channels = (inputs[0][-1],)
        return {"gamma": WeightSpec(channels, "ones"), "beta": WeightSpec(channels, "zeros")}


@dataclass(frozen=True)
class Relu(Pointwise):
    """max(x, 0)."""


@dataclass(frozen=True)
class LeakyRelu(Pointwise):
    """x where x > 0, else slope * x."""

    slope: float


@dataclass(frozen=True)
class PRelu(Pointwise):
    """x where x > 0, else alpha * x, with alpha trained (He et al. 2015).

    shared: one alpha per "channel", shape (C,), or per "voxel" and channel, the input's whole shape.
    initial: of alpha, "quarter" as in the paper, PyTorch and Lasagne, or "zeros" as in Keras.
    """

    shared: Literal["channel", "voxel"]
    initial: Literal["zeros", "quarter"]

    def weights(self, inputs: Sequence[Shape]) -> dict[str, WeightSpec]:
        shape = one_input(inputs, self)
        return {"alpha": WeightSpec(shape if self.shared == "voxel" else shape[-1:], self.initial)}


@dataclass(frozen=True)
class Sigmoid(Pointwise):
    """1 / (1 + exp(-x))."""


@dataclass(frozen=True)
class Softmax(Pointwise):
    """exp(x) over its sum along the last axis, the channels."""


@dataclass(frozen=True)
class Dropout(Pointwise):
    """In training, zero a share `rate` of the values and scale the rest by 1 / (1 - rate); else the identity."""

    rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ConfigError(f"dropout rate must be at least 0 and below 1; received: {self.rate}")
