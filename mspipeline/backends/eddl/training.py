"""What EDDL is not left to do in training: losses with their slopes, and Adam, both in NumPy beside it.

Its losses add up over voxels, and its Adam has epsilon inside the root and moments that nothing can read or write. The
losses are those of `training.losses`; their slopes are by the probability.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.backends.base import Adam, FloatArray, Loss, State
from mspipeline.backends.keras.losses import CE_DICE_SMOOTH, PROBABILITY_FLOOR
from mspipeline.errors import ShapeError

Array = npt.NDArray[Any]
Value = tuple[float, list[Array]]
"""A loss and its slope by each output, (N, *shape)."""


def loss_and_slopes(loss: Loss, masks: FloatArray, outputs: list[FloatArray]) -> Value:
    """Over the whole batch, in float64. Outputs are such as `keras.losses.check_loss` lets pass."""
    exact = [output.astype(np.float64) for output in outputs]
    return _LOSSES[loss.name](loss, masks.astype(np.float64), exact)


def _dice(loss: Loss, mask: Array, outputs: list[Array]) -> Value:
    p = outputs[0]
    above, below = 2 * np.sum(mask * p) + 1, np.sum(mask) + np.sum(p) + 1
    return float(1 - above / below), [(above - 2 * mask * below) / below**2]


def _bce(loss: Loss, mask: Array, outputs: list[Array]) -> Value:
    return _binary(mask, outputs[0], 1.0, 1.0)


def _binary(mask: Array, probability: Array, background: float, lesion: float) -> Value:
    """The mean over values of -w1 t log p - w0 (1 - t) log(1 - p)."""
    p = np.clip(probability, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    zeros, ones = background * (1 - mask), lesion * mask
    slope = (p == probability) * (zeros / (1 - p) - ones / p)  # 0 where it was clipped
    return float(-np.mean(ones * np.log(p) + zeros * np.log(1 - p))), [slope / p.size]


def _cross_entropy(loss: Loss, mask: Array, outputs: list[Array]) -> Value:
    """The mean over voxels of -sum over classes of w t log p; one sigmoid stands for two classes."""
    probability = outputs[0]
    classes = probability.shape[-1]
    if classes == 1:
        return _binary(mask, probability, *loss.class_weights)
    weighted = mask * np.asarray(loss.class_weights if loss.name == "weighted_ce" else (1.0,) * classes)
    p, voxels = np.clip(probability, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR), probability.size // classes
    return float(-np.sum(weighted * np.log(p)) / voxels), [(p == probability) * -weighted / p / voxels]


def _ce_dice(loss: Loss, mask: Array, outputs: list[Array]) -> Value:
    """Cross-entropy minus soft Dice of each level's logits, beside the mask at every n-th voxel."""
    total, slopes = 0.0, []
    for weight, logits in zip(loss.level_weights, outputs, strict=True):
        truth = mask[tuple(slice(None, None, n // m) for n, m in zip(mask.shape, logits.shape, strict=True))]
        below = logits - logits.max(axis=-1, keepdims=True)
        logarithm = below - np.log(np.exp(below).sum(axis=-1, keepdims=True))
        p, axes = np.exp(logarithm), tuple(range(0 if loss.batch_dice else 1, logits.ndim - 1))
        overlap = np.sum(truth * p, axis=axes, keepdims=True)[..., 1:]
        sizes = np.sum(truth + p, axis=axes, keepdims=True)[..., 1:] + CE_DICE_SMOOTH
        score = (2 * overlap + CE_DICE_SMOOTH) / sizes
        voxels = p.size // p.shape[-1]
        total += weight * float(-np.sum(truth * logarithm) / voxels - score.mean())
        by_p = np.zeros_like(p)
        by_p[..., 1:] = (score - 2 * truth[..., 1:]) / sizes / score.size
        through_softmax = p * (by_p - np.sum(by_p * p, axis=-1, keepdims=True))
        slopes.append(weight * ((p * truth.sum(axis=-1, keepdims=True) - truth) / voxels + through_softmax))
    return total, slopes


_LOSSES: dict[str, Callable[[Loss, Array, list[Array]], Value]] = {
    "bce": _bce,
    "dice": _dice,
    "weighted_ce": _cross_entropy,
    "categorical_ce": _cross_entropy,
    "ce_dice": _ce_dice,
}


class AdamSteps:
    """Adam as `base.Adam` has it, in place on float32 arrays that stay where they are.

    shapes: of the arrays by name; `step` and `state` go by the same names.
    """

    def __init__(self, settings: Adam, shapes: dict[str, tuple[int, ...]]) -> None:
        self._settings = settings
        self._steps = 0
        self._means = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        self._squares = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}

    def step(self, gradients: dict[str, FloatArray], weights: dict[str, FloatArray]) -> None:
        """One update of every weight."""
        set_ = self._settings
        self._steps += 1
        first, second = 1 - set_.beta1**self._steps, 1 - set_.beta2**self._steps
        for name, gradient in gradients.items():
            mean, square = self._means[name], self._squares[name]
            mean += np.float32(1 - set_.beta1) * (gradient - mean)
            square += np.float32(1 - set_.beta2) * (np.square(gradient) - square)
            root = np.sqrt(square * np.float32(1 / second))
            root += np.float32(set_.epsilon)
            weights[name] -= np.float32(set_.learning_rate / first) * mean / root

    def state(self) -> State:
        """A copy of the number of steps and the moments."""
        kept: State = {"optimiser/steps": np.array(self._steps, np.int64)}
        for kind, arrays in (("mean", self._means), ("square", self._squares)):
            kept |= {f"optimiser/{kind}/{name}": values.copy() for name, values in arrays.items()}
        return kept

    def set_state(self, state: State) -> None:
        """Go on from `state`. Raises ShapeError where it is of other arrays."""
        own = self.state()
        differing = sorted(own.keys() ^ state.keys())
        differing += sorted(name for name in own.keys() & state.keys() if own[name].shape != state[name].shape)
        if differing:
            raise ShapeError(
                f"optimiser state of another network: {len(differing)} entries differ ({differing[0]}, ...); "
                "resume the run that wrote it"
            )
        self._steps = int(state["optimiser/steps"])
        for kind, arrays in (("mean", self._means), ("square", self._squares)):
            for name, values in arrays.items():
                values[...] = state[f"optimiser/{kind}/{name}"]
