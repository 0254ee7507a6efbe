"""Keras layers that the PyTorch engine replaces: same constructors, weights and names, another computation.

Keras' own on PyTorch copy a batch into (N, C, ...) order before each convolution and pooling, and normalise in a dozen
passes: a training step of the narrow U-Net took 1.6 to 2 times as long as PyTorch's modules (2 cores). A channels-last
tensor seen as (N, C, ...) is PyTorch's `channels_last` memory format, which its kernels take as it is, and which is the
faster one on a CPU. So nothing is copied here. Each layer's `first` takes and gives (N, C, ...) views; its `call` is
the same for Keras, (N, ..., C). `activation`: a function that overwrites the result.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

from mspipeline.backends.keras.joint import JointBatch
from mspipeline.backends.keras.layers import Toolkit, with_own_layers

Layer = Any


def channels_first(x: Any) -> Any:
    """(N, ..., C) -> (N, C, ...), a view."""
    return x.movedim(-1, 1)


def channels_last(x: Any) -> Any:
    """(N, C, ...) -> (N, ..., C), a view."""
    return x.movedim(1, -1)


@cache
def toolkit(keras: Any) -> Toolkit:
    """Keras as `layers` uses it, with these layers in place of its own."""
    own = {**_convolutions(keras), **_resampling(keras), **_normalisations(keras), **_others(keras)}
    return with_own_layers(keras, own)


def joint_normalisation(tools: Toolkit, batch: JointBatch) -> Toolkit:
    """The toolkit of a process in a group: batch normalisation has the moments of the joint batch in training."""

    class BatchNormalization(tools.layers.BatchNormalization):  # type: ignore[name-defined]
        def first(self, x: Any, training: bool = False, activation: Any = None) -> Any:
            if not training:
                return super().first(x, training, activation)
            y = channels_first(batch.normalised(self, channels_last(x)))
            return activation(y) if activation else y

    return with_own_layers(tools, {"BatchNormalization": BatchNormalization})


def in_place_activations() -> dict[str, Any]:
    """By class of an activation layer: layer -> the function that overwrites its argument.

    Their gradients follow from their results, and what comes before (convolution, normalisation) does not need its own.
    """
    from torch.nn import functional

    return {
        "ReLU": lambda layer: functional.relu_,
        "LeakyReLU": lambda layer: partial(functional.leaky_relu_, negative_slope=layer.negative_slope),
    }


class _Viewed:
    """`call` by way of `first`, for a layer that is the same in training."""

    first: Any

    def call(self, x: Any) -> Any:
        return channels_last(self.first(channels_first(x)))


def _keep_in_engines_order(variable: Any) -> None:
    """Lay a kernel out in memory as the engine reads it; its axes keep Keras' order. Saves a copy in every step."""
    value = variable.value
    value.data = value.data.movedim((-1, -2), (0, -1)).contiguous().movedim((0, -1), (-1, -2))


def _kernel(variable: Any) -> Any:
    """(..., a, b) -> (b, a, ...), PyTorch's order of axes, a view: Keras has (in, out), transposed (out, in)."""
    return variable.value.movedim((-1, -2), (0, 1))


def _convolutions(keras: Any) -> dict[str, Layer]:
    from torch.nn import functional

    def conv(rank: int, own: Any) -> Layer:
        convolve = getattr(functional, f"conv{rank}d")

        class Conv(_Viewed, own):
            def build(self, shape: Any) -> None:
                super().build(shape)
                _keep_in_engines_order(self.kernel)

            def first(self, x: Any, activation: Any = None) -> Any:
                padding = [0] * rank
                if self.padding == "same":
                    total = [d * (k - 1) for d, k in zip(self.dilation_rate, self.kernel_size, strict=True)]
                    padding = [each // 2 for each in total]
                    if any(each % 2 for each in total):  # PyTorch pads both sides alike; the odd voxel goes after
                        x = functional.pad(x, [side for each in reversed(total) for side in (0, each % 2)])
                bias = self.bias.value if self.use_bias else None
                y = convolve(x, _kernel(self.kernel), bias, self.strides, padding, self.dilation_rate)
                return activation(y) if activation else y

        return Conv

    def transposed(rank: int, own: Any) -> Layer:
        convolve = getattr(functional, f"conv_transpose{rank}d")

        class ConvTranspose(_Viewed, own):
            def first(self, x: Any) -> Any:
                bias = self.bias.value if self.use_bias else None
                return convolve(x, _kernel(self.kernel), bias, self.strides)

        return ConvTranspose

    def padded(rank: int, own: Any) -> Layer:
        class ZeroPadding(_Viewed, own):
            def first(self, x: Any) -> Any:
                return functional.pad(x, [side for pair in reversed(self.padding) for side in pair])

        return ZeroPadding

    names = {"Conv{}D": conv, "Conv{}DTranspose": transposed, "ZeroPadding{}D": padded}
    return _of_both_ranks(keras, names)


def _of_both_ranks(keras: Any, makers: dict[str, Any]) -> dict[str, Layer]:
    """By name, of each layer for 2 and 3 spatial axes: its maker is given the rank and Keras' own class."""
    named = [(name.format(rank), rank, make) for rank in (2, 3) for name, make in makers.items()]
    return {name: make(rank, getattr(keras.layers, name)) for name, rank, make in named}


def _resampling(keras: Any) -> dict[str, Layer]:
    from torch.nn import functional

    def pool(function: str, rank: int, own: Any) -> Layer:
        pooled = getattr(functional, f"{function}{rank}d")

        class Pool(_Viewed, own):
            def first(self, x: Any) -> Any:
                return pooled(x, self.pool_size, self.strides)

        return Pool

    def upsample(rank: int, own: Any) -> Layer:
        class UpSampling(_Viewed, own):
            def first(self, x: Any) -> Any:
                return functional.interpolate(x, scale_factor=tuple(map(float, self.size)), mode="nearest")

        return UpSampling

    makers = {"MaxPooling{}D": partial(pool, "max_pool"), "AveragePooling{}D": partial(pool, "avg_pool")}
    return _of_both_ranks(keras, {**makers, "UpSampling{}D": upsample})


def _normalisations(keras: Any) -> dict[str, Layer]:
    import torch
    from torch.nn import functional

    class BatchNormalization(keras.layers.BatchNormalization):
        """Running statistics take the batch's own (biased) variance, as Keras', not PyTorch's unbiased one."""

        def call(self, x: Any, training: bool = False) -> Any:
            return channels_last(self.first(channels_first(x), training))

        def first(self, x: Any, training: bool = False, activation: Any = None) -> Any:
            scale, shift = self.gamma.value, self.beta.value
            if training:
                y, mean, inverse = torch.native_batch_norm(x, scale, shift, None, None, True, 0.0, self.epsilon)
                if y.device.type != "meta":  # where Keras asks for shapes alone
                    with torch.no_grad():
                        self.moving_mean.value.lerp_(mean, 1 - self.momentum)
                        self.moving_variance.value.lerp_(inverse.pow(-2).sub_(self.epsilon), 1 - self.momentum)
            else:
                mean, variance = self.moving_mean.value, self.moving_variance.value
                y = functional.batch_norm(x, mean, variance, scale, shift, eps=self.epsilon)
            return activation(y) if activation else y

    class InstanceNorm(_Viewed, keras.layers.Layer):
        def __init__(self, epsilon: float, name: str) -> None:
            super().__init__(name=name)
            self.epsilon = epsilon

        def build(self, shape: Any) -> None:
            self.gamma = self.add_weight(shape=shape[-1:], initializer="ones", name="gamma")
            self.beta = self.add_weight(shape=shape[-1:], initializer="zeros", name="beta")

        def first(self, x: Any, activation: Any = None) -> Any:
            scale, shift = self.gamma.value, self.beta.value
            y = functional.group_norm(x, len(scale), scale, shift, self.epsilon)
            return activation(y) if activation else y

    return {"BatchNormalization": BatchNormalization, "InstanceNorm": InstanceNorm}


def _others(keras: Any) -> dict[str, Layer]:
    import torch

    class Concatenate(keras.layers.Concatenate):
        def first(self, several: list[Any]) -> Any:
            return torch.cat(several, 1)

    class Activation(keras.layers.Activation):
        first = keras.layers.Activation.call  # voxel by voxel: any order of axes

    return {"Concatenate": Concatenate, "Activation": Activation}
