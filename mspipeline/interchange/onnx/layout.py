"""Where weights and axes lie: ONNX's channels first and our channels last."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mspipeline.network import ops
from mspipeline.network.ops import Op, Shape

FloatArray = npt.NDArray[np.float32]


def channels_first(shape: Shape) -> Shape:
    """(*spatial, C) as (C, *spatial)."""
    return (shape[-1], *shape[:-1])


def stored(op: Op, name: str, values: FloatArray, rank: int) -> FloatArray:
    """A weight as ONNX keeps it. rank: number of axes of the operation's input, channels included.

    Kernels (k..., in, out) become (out, in, k...), a transposed convolution's (in, out, k...). A dense kernel stays
    (in, out) on a vector; over spatial axes it becomes that of a pointwise convolution. An alpha of each voxel becomes
    (C, *spatial), one of each channel (C, 1, ...).
    """
    if name == "kernel" and isinstance(op, ops.ConvTranspose):
        return np.moveaxis(values, (-2, -1), (0, 1))
    if name == "kernel" and isinstance(op, ops.Dense):
        return values if rank == 1 else values.T.reshape(*values.T.shape, *(1,) * (rank - 1))
    if name == "kernel":
        return np.moveaxis(values, (-1, -2), (0, 1))
    if name == "alpha" and rank > 1:
        return np.moveaxis(values, -1, 0) if values.ndim > 1 else values.reshape(-1, *(1,) * (rank - 1))
    return values


def restored(op: Op, name: str, values: FloatArray, rank: int) -> FloatArray:
    """The inverse of `stored`."""
    if name == "kernel" and isinstance(op, ops.ConvTranspose):
        return np.moveaxis(values, (0, 1), (-2, -1))
    if name == "kernel" and isinstance(op, ops.Dense):
        return values if rank == 1 else values.reshape(values.shape[:2]).T
    if name == "kernel":
        return np.moveaxis(values, (0, 1), (-1, -2))
    if name == "alpha" and rank > 1:
        shared = isinstance(op, ops.PRelu) and op.shared == "channel"
        return values.reshape(-1) if shared else np.moveaxis(values, 0, -1)
    return values


def own_nearest(before: int, after: int) -> npt.NDArray[np.int64]:
    """The voxel that `ops.Resize` by nearest takes for each of `after`."""
    return np.arange(after) * before // after


def onnx_places(before: int, after: int, transformation: str) -> npt.NDArray[np.float32]:
    """Where ONNX's Resize looks for each of `after` voxels, in its runtimes' float32. Raises KeyError."""
    place = np.arange(after, dtype=np.float32)
    scale = np.float32(after) / np.float32(before)
    half = np.float32(0.5)
    match transformation:
        case "asymmetric":
            return np.asarray(place / scale, np.float32)
        case "align_corners":
            return np.asarray(place * np.float32((before - 1) / max(after - 1, 1)), np.float32)
        case "pytorch_half_pixel" if after == 1:
            return np.zeros(1, np.float32)
        case "half_pixel" | "pytorch_half_pixel":
            return np.asarray((place + half) / scale - half, np.float32)
    raise KeyError(transformation)


def onnx_nearest(before: int, after: int, transformation: str, rounding: str) -> npt.NDArray[np.int64]:
    """The voxel that ONNX's Resize by nearest takes for each of `after`. Raises KeyError for an unknown mode."""
    exact = onnx_places(before, after, transformation)
    ways: dict[str, Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]] = {
        "floor": np.floor,
        "ceil": np.ceil,
        "round_prefer_floor": lambda values: np.ceil(values - np.float32(0.5)),
        "round_prefer_ceil": lambda values: np.floor(values + np.float32(0.5)),
    }
    return np.asarray(np.clip(ways[rounding](exact), 0, before - 1), np.int64)
