"""Weights by node name, as NumPy arrays: drawn here, so that one seed starts every backend from the same numbers."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import numpy.typing as npt

from mspipeline.errors import ShapeError
from mspipeline.network.graph import Graph
from mspipeline.network.ops import Sigmoid, WeightSpec

Weights = dict[tuple[str, str], npt.NDArray[np.float32]]
"""(node, weight name) -> array; the last two axes of every kernel are (in, out)."""

LEAKY_SLOPE = 0.01


def initial_weights(graph: Graph, seed: int) -> Weights:
    """Initial values of every weight. Each array's numbers depend on the seed and its own names alone.

    A kernel that leads to one channel, and of which all values came out negative, has its sign turned. Behind a ReLU it
    could call a voxel lesion only by all its inputs' silence: of the U-Net, whose last kernel has two values, one seed
    of four began so, and hardly ever got away from predicting nothing.
    """
    return {key: _turned(_draw(spec, seed, key)) for key, spec in graph.weights().items()}


def _turned(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The values, their sign turned where they are a kernel to one channel and all negative."""
    to_one = values.ndim > 1 and values.shape[-1] == 1
    return -values if to_one and (values < 0).all() else values


def begin_at(graph: Graph, weights: Weights, probability: float) -> Weights:
    """The weights, with an output of some `probability`: what lies before the last sigmoid gets its logit as bias.

    Lesions are a hundredth of the voxels or less. A network that begins at 1/2 spends its first hundreds of steps on
    bringing all voxels down, by its largest gradient, and may forget the lesions on the way (Lin et al. 2017, section
    4.1, who begin at 0.01). As they are where the graph does not end in a sigmoid, or nothing before it has a bias.
    """
    last = graph[graph.outputs[0]]
    if not isinstance(last.op, Sigmoid):
        return weights
    keys = [key for key in weights if key[0] == last.inputs[0] and key[1] in ("bias", "beta")]
    logit = math.log(probability / (1 - probability))
    return {**weights, **{key: np.full_like(weights[key], logit) for key in keys}}


def check_weights(graph: Graph, weights: Weights, *, source: str) -> None:
    """Raise ShapeError, naming nodes, where `weights` are not those of `graph`. source: where they come from."""
    specs = graph.weights()
    wrong = [key for key in specs if key not in weights or weights[key].shape != specs[key].shape]
    wrong += [key for key in weights if key not in specs]
    if wrong:
        names = ", ".join(f"{node}.{name}" for node, name in wrong[:4]) + (", ..." if len(wrong) > 4 else "")
        raise ShapeError(
            f"{source}: holds weights of another network than {graph.name}: {len(wrong)} differ ({names}); "
            "use the model and arguments that they were trained with"
        )


_CONSTANTS = {"zeros": 0.0, "ones": 1.0, "quarter": 0.25}


def _draw(spec: WeightSpec, seed: int, key: tuple[str, str]) -> npt.NDArray[np.float32]:
    """One array by its `initial`.

    "glorot_uniform": Glorot & Bengio 2010, equation 16. "he_normal": a plain normal with variance 2 / fan-in (He et al.
    2015, equation 10). "he_leaky": the same for a leaky slope of 0.01 (their equation 15), as nnU-Net begins.
    "normal_0.01": standard deviation 0.01, as DeepLab's classifiers.
    """
    if spec.initial in _CONSTANTS:
        return np.full(spec.shape, _CONSTANTS[spec.initial], np.float32)
    entropy = int.from_bytes(hashlib.sha256("/".join((str(seed), *key)).encode()).digest())
    generator = np.random.Generator(np.random.PCG64(entropy))
    fan_in, fan_out = spec.fans
    if spec.initial == "glorot_uniform":
        limit = math.sqrt(6 / (fan_in + fan_out))
        return (2 * generator.random(spec.shape, np.float32) - 1) * np.float32(limit)
    deviations = {
        "he_normal": math.sqrt(2 / fan_in),
        "he_leaky": math.sqrt(2 / ((1 + LEAKY_SLOPE**2) * fan_in)),
        "normal_0.01": 0.01,
    }
    return generator.standard_normal(spec.shape, np.float32) * np.float32(deviations[spec.initial])
