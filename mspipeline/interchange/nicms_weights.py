"""The weights that nicMSlesions ships (Keras 2.0, HDF5) as weights of `nicms`.

Each layer is a group <layer>; its attribute `weight_names` says where its arrays lie below it, for model_2 under
<layer>_1. That network ran channels first, ours runs channels last: alphas of the convolutions are (C, X, Y, Z) there,
and the rows of the first dense layer follow the same order. Kernels are stored as ours are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mspipeline.errors import DataError, ShapeError
from mspipeline.hdf5 import open_hdf5
from mspipeline.network.graph import Graph
from mspipeline.network.weights import Weights

Array = npt.NDArray[np.float32]
Arrays = dict[tuple[str, str], Array]
"""(layer, name) -> array, as the file has them."""

POOLED = (2, 2, 2)
"""What two poolings leave of 11^3 voxels."""


def _alpha(array: Array) -> Array:
    return array.transpose(1, 2, 3, 0)  # (C,X,Y,Z) -> (X,Y,Z,C)


def _rows(array: Array) -> Array:
    channels, units = array.shape[0] // 8, array.shape[1]
    by_voxel = array.reshape(channels, *POOLED, units).transpose(1, 2, 3, 0, 4)  # (C,X,Y,Z,U) -> (X,Y,Z,C,U)
    return by_voxel.reshape(-1, units)


def _same(array: Array) -> Array:
    return array


def _table() -> dict[tuple[str, str], tuple[str, str, Callable[[Array], Array]]]:
    """Our (node, name) -> their (layer, name) and the way from theirs to ours."""
    table: dict[tuple[str, str], tuple[str, str, Callable[[Array], Array]]] = {}
    for place in ("1_1", "1_2", "2_1", "2_2"):
        table |= {(f"conv{place}", name): (f"conv{place}", name, _same) for name in ("kernel", "bias")}
        theirs = {"gamma": "gamma", "beta": "beta", "mean": "moving_mean", "variance": "moving_variance"}
        table |= {(f"conv{place}_bn", name): (f"bn_{place}", their, _same) for name, their in theirs.items()}
        table[f"conv{place}_act", "alpha"] = (f"prelu_conv{place}", "alpha", _alpha)
    for layer in ("d1", "d2", "d3"):
        table[layer, "kernel"] = (layer, "kernel", _rows if layer == "d1" else _same)
        table[layer, "bias"] = (layer, "bias", _same)
        table[f"{layer}_act", "alpha"] = (f"prelu_{layer}", "alpha", _same)
    return table | {("logits", name): ("out", name, _same) for name in ("kernel", "bias")}


TABLE = _table()


def read_nicms_weights(path: Path, graph: Graph) -> Weights:
    """The weights in a nicMSlesions HDF5 file, for `graph`: `nicms` with an alpha per voxel and convolution biases.

    Raises DataError where the file is missing, not HDF5, or lacks or adds layers; ShapeError where one has another
    shape, such as that of another number of modalities.
    """
    stored = _read(path)
    wanted = {(layer, name) for layer, name, _ in TABLE.values()}
    if missing := _named(wanted - stored.keys()):
        raise DataError(f"{path}: no {missing}; expected the layers of a nicMSlesions 0.2 network (Keras)")
    if added := _named(stored.keys() - wanted):
        raise DataError(f"{path}: holds {added} as well, which nicMSlesions 0.2 has not; it is another network's file")
    weights: Weights = {}
    for key, spec in graph.weights().items():
        layer, name, convert = TABLE[key]
        array = stored[layer, name]
        theirs = _their_shape(key, spec.shape)
        if array.shape != theirs:
            raise ShapeError(f"{path}: {layer}/{name} has shape {array.shape}, expected {theirs}{_hint(layer, array)}")
        if not np.isfinite(array).all():
            raise DataError(f"{path}: {layer}/{name} holds NaN or infinity; copy the file again")
        weights[key] = np.ascontiguousarray(convert(array))
    return weights


def _their_shape(key: tuple[str, str], shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[-1], *shape[:-1]) if key[1] == "alpha" and len(shape) == 4 else shape


def _hint(layer: str, array: Array) -> str:
    if layer == "conv1_1" and array.ndim == 5:
        return f": it was trained on {array.shape[3]} modalities; name as many, in the order of its training"
    return ""


def _read(path: Path) -> Arrays:
    try:
        with open_hdf5(path) as file:
            root = file.get("model_weights", file)  # `save` nests them, `save_weights` does not
            arrays: Arrays = {}
            for layer in map(_text, root.attrs["layer_names"]):
                for name in map(_text, root[layer].attrs["weight_names"]):
                    short = name.rpartition("/")[2].partition(":")[0]  # conv1_1_1/kernel:0 -> kernel
                    arrays[layer, short] = np.asarray(root[layer][name], np.float32)
            return arrays
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; nicMSlesions keeps its weights as nets/*/nets/model_1.hdf5") from None
    except OSError as error:
        raise DataError(f"{path}: not a readable HDF5 file ({error}); copy or download it again") from error
    except (KeyError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not Keras weights ({reason}); name nicMSlesions' model_1 or model_2.hdf5") from error


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _named(keys: set[tuple[str, str]]) -> str:
    """The first few of some arrays, for messages."""
    names = [f"{layer}/{name}" for layer, name in sorted(keys)]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
