"""A file of the structure in which nicMSlesions ships its Keras weights, with random numbers in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Layers = dict[str, dict[str, Array]]

EMPTY = ("in1", "max_pooling3d_1", "max_pooling3d_2", "flatten_1", "dr_d1", "dr_d2", "dr_d3")


def random_layers(seed: int, channels: int = 2) -> Layers:
    """Every array of one network, no two alike, scaled so that its probability is neither 0 nor 1."""
    random = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 1.0) -> Array:
        return (random.standard_normal(shape) * scale).astype(np.float32)

    layers: Layers = {}
    received = channels
    for place, filters, side in (("1_1", 32, 11), ("1_2", 32, 11), ("2_1", 64, 5), ("2_2", 64, 5)):
        kernel = normal(3, 3, 3, received, filters, scale=(27 * received) ** -0.5)
        layers[f"conv{place}"] = {"kernel": kernel, "bias": normal(filters, scale=0.3)}
        layers[f"bn_{place}"] = {
            "gamma": normal(filters, scale=0.2) + 1,
            "beta": normal(filters, scale=0.2),
            "moving_mean": normal(filters, scale=0.2),
            "moving_variance": normal(filters, scale=0.2) ** 2 + 0.5,
        }
        layers[f"prelu_conv{place}"] = {"alpha": normal(filters, side, side, side, scale=0.5)}
        received = filters
    for layer, given, units in (("d1", 512, 256), ("d2", 256, 128), ("d3", 128, 64)):
        layers[layer] = {"kernel": normal(given, units, scale=given**-0.5), "bias": normal(units, scale=0.2)}
        layers[f"prelu_{layer}"] = {"alpha": normal(units, scale=0.5)}
    layers["out"] = {"kernel": normal(64, 2, scale=0.05), "bias": normal(2, scale=0.05)}
    return layers


def write_nicms_file(path: Path, layers: Mapping[str, Mapping[str, Any]], *, suffix: str = "") -> Path:
    """Write layers as Keras 2.0's `save_weights` did. suffix: of the arrays' groups, "_1" in model_2."""
    with h5py.File(path, "w") as file:
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", b"2.0.0"
        names = [*EMPTY, *layers]
        file.attrs["layer_names"] = [name.encode() for name in names]
        for name in names:
            arrays = layers.get(name, {})
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}{suffix}/{array}:0".encode() for array in arrays]
            for array, values in arrays.items():
                group[f"{name}{suffix}/{array}:0"] = values
    return path


def forward(layers: Mapping[str, Mapping[str, Array]], patch: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(C, 11, 11, 11) -> probabilities of background and lesion, (2,); channels first, in float64, with NumPy alone."""
    x = patch.astype(np.float64)
    for block in ("1", "2"):
        for place in (f"{block}_1", f"{block}_2"):
            x = _convolution(x, layers[f"conv{place}"])
            norm = {key: values.reshape(-1, 1, 1, 1) for key, values in layers[f"bn_{place}"].items()}
            x = (x - norm["moving_mean"]) / np.sqrt(norm["moving_variance"] + 1e-3) * norm["gamma"] + norm["beta"]
            x = np.where(x > 0, x, layers[f"prelu_conv{place}"]["alpha"] * x)
        n = x.shape[1] // 2
        x = x[:, : 2 * n, : 2 * n, : 2 * n].reshape(len(x), n, 2, n, 2, n, 2).max(axis=(2, 4, 6))
    x = x.reshape(-1)
    for layer in ("d1", "d2", "d3"):
        x = x @ layers[layer]["kernel"] + layers[layer]["bias"]
        x = np.where(x > 0, x, layers[f"prelu_{layer}"]["alpha"] * x)
    powers: npt.NDArray[np.float64] = np.exp(x @ layers["out"]["kernel"] + layers["out"]["bias"])
    return powers / powers.sum()


def _convolution(x: npt.NDArray[np.float64], layer: Mapping[str, Array]) -> npt.NDArray[np.float64]:
    """'same' cross-correlation of (C, X, Y, Z), a sum over the taps."""
    _, X, Y, Z = x.shape
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (1, 1)])
    kernel = layer["kernel"].astype(np.float64)
    result = np.zeros((kernel.shape[-1], X, Y, Z)) + layer["bias"].reshape(-1, 1, 1, 1)
    for i, j, k in np.ndindex(3, 3, 3):
        tap = padded[:, i : i + X, j : j + Y, k : k + Z]
        result += np.einsum("cxyz,cf->fxyz", tap, kernel[i, j, k])
    return result
