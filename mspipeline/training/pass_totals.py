"""What a pass over a subset adds up beside its cases' scores: the parts of its loss, and how much was predicted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.losses import Loss, dice_of_sums
from mspipeline.training.collapse import To, predicted_everywhere

Array = npt.NDArray[Any]


class PassTotals:
    """The loss of a pass as that of one batch, and the counts of its voxels.

    A term of the loss that is a mean is the mean over all images. Soft Dice is that of the sums over all images: the
    mean over batches would be smallest for a network that finds nothing, since most batches of slices in a row have no
    lesion, and there the empty prediction has Dice loss 0, a few wrong voxels nearly 1.

    threshold: probability from which a voxel counts as lesion.
    """

    def __init__(self, loss: Loss, threshold: float) -> None:
        self._loss, self._threshold = loss, threshold
        self._means = 0.0  # the terms of the loss that are means, by images
        self._sums = np.zeros(3)  # of t p, t and p
        self._counts = np.zeros(4, np.int64)  # images; voxels in truth, in the prediction, in all

    def add(
        self, truth: Array, probability: Array, loss: float, *, joint: Callable[[Array], Array] = lambda sums: sums
    ) -> None:
        """Count one batch, or one process's share of it.

        truth, probability: (N, *spatial), of lesion. loss: of the joint batch. joint: a share's sums -> the batch's.
        """
        if self._loss.sums_dice:
            sums = np.array([np.sum(each, dtype=np.float64) for each in (truth * probability, truth, probability)])
            self._sums += sums
            loss -= dice_of_sums(*map(float, joint(sums)))
        self._means += loss * len(truth)
        predicted = np.count_nonzero(probability >= self._threshold)
        self._counts += np.array([len(truth), np.count_nonzero(truth), predicted, truth.size], np.int64)

    @property
    def loss(self) -> float:
        """Of all images so far; 0 of none."""
        dice = dice_of_sums(*map(float, self._sums)) if self._loss.sums_dice else 0.0
        return float(self._means / max(int(self._counts[0]), 1) + dice)

    @property
    def lesions(self) -> bool:
        """Whether there is a lesion in the truth, and a voxel that is none."""
        _, truth, _, voxels = self._counts
        return bool(0 < truth < voxels)

    @property
    def everywhere(self) -> To | None:
        """What was predicted in all voxels, see `collapse.predicted_everywhere`."""
        _, truth, predicted, voxels = map(int, self._counts)
        return predicted_everywhere(truth, predicted, voxels)

    def to_json(self) -> dict[str, Any]:
        """Plain data from which `restore` goes on exactly; sums of several processes' are those of all."""
        return {"loss_means": [self._means], "dice_sums": self._sums.tolist(), "voxels": self._counts.tolist()}

    def restore(self, document: dict[str, Any]) -> None:
        """Go on from what `to_json` gave."""
        (self._means,) = map(float, document["loss_means"])
        self._sums = np.array(document["dice_sums"], np.float64)
        self._counts = np.array(document["voxels"], np.int64)
