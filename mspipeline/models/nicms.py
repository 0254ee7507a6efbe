"""nicMSlesions (Valverde et al. 2019): the cascade's second, deeper network on 11^3 patches.

Two blocks of two 3x3x3 convolutions (32, then 64 filters), each with batch normalisation and PReLU, and a maximum over
2^3 that drops the odd voxel (11 -> 5 -> 2); then 256, 128 and 64 units, each after dropout and with PReLU; softmax over
background and lesion.

Two public versions carry the name. Keras (0.2, whose weights are shipped): convolutions with bias, an alpha for every
voxel and channel: 470,082 parameters at 2 modalities. Lasagne (0.1): no convolution bias (192 numbers fewer), an alpha
a channel: 368,898. Keras' form with shared alphas lies between: 369,090, or 369,474 with the 384 running statistics.
Normalisation is Keras' (momentum 0.99, epsilon 1e-3) in all three; alphas begin at 0, as Keras' do.
"""

from __future__ import annotations

from typing import Literal

from mspipeline.errors import ConfigError
from mspipeline.models.norms import KERAS_NORM
from mspipeline.network.blocks import max_pool, same_padding
from mspipeline.network.graph import Builder, Graph
from mspipeline.network.ops import Conv, Dense, Dropout, Flatten, Input, PRelu, Softmax

KERNEL = (3, 3, 3)
ONES = (1, 1, 1)
FILTERS = (32, 64)
UNITS = (256, 128, 64)


def nicms(
    depth: int,
    height: int,
    width: int,
    channels: int,
    *,
    prelu: str = "voxel",
    conv_bias: bool = True,
    dropout: float = 0.5,
) -> Graph:
    """The graph for patches of (depth, height, width, channels): probabilities of background and lesion, (2,).

    prelu: "voxel" (an alpha for each voxel and channel) or "channel"; only the latter allows exact dense inference.
    conv_bias: whether convolutions have one. Raises ConfigError for another `prelu`, ShapeError for patches below 4.
    """
    activation = PRelu(_shared(prelu), initial="zeros")
    builder = Builder("nicms")
    x = builder.add("image", Input((depth, height, width, channels)))
    for block, filters in enumerate(FILTERS, 1):
        for place in (1, 2):
            name = f"conv{block}_{place}"
            x = builder.add(name, Conv(filters, KERNEL, ONES, ONES, same_padding(KERNEL), conv_bias), x)
            x = builder.add(f"{name}_bn", KERAS_NORM, x)
            x = builder.add(f"{name}_act", activation, x)
        x = max_pool(builder, f"pool{block}", x, (2, 2, 2))
    x = builder.add("flat", Flatten(), x)
    for place, units in enumerate(UNITS, 1):
        x = builder.add(f"d{place}_drop", Dropout(dropout), x)
        x = builder.add(f"d{place}", Dense(units, bias=True), x)
        x = builder.add(f"d{place}_act", activation, x)
    x = builder.add("logits", Dense(2, bias=True), x)
    return builder.graph(builder.add("probability", Softmax(), x))


def _shared(prelu: str) -> Literal["channel", "voxel"]:
    match prelu:
        case "channel" | "voxel":
            return prelu
    raise ConfigError(f"model nicms: prelu must be 'voxel' or 'channel'; received: {prelu!r}")
