"""The scores of one pass over a subset, gathered batch by batch with the suite's own metrics."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.metrics import overlap


class EpochScores:
    """Loss and Dice of a pass, whatever the order in which its slices or patches come.

    cases: how many cases the reader numbers. threshold: probability from which a voxel counts as lesion.
    """

    def __init__(self, cases: int, threshold: float) -> None:
        self._threshold = threshold
        self._counts = np.zeros((cases, 3), np.int64)  # of each case: true positive, in truth, in prediction
        self._sums = np.zeros(3)  # over images: loss, hard slice Dice, soft slice Dice
        self.images = 0

    def add(
        self,
        cases: npt.NDArray[np.int32],
        masks: npt.NDArray[np.float32],
        probability: npt.NDArray[np.float32],
        loss: float,
    ) -> None:
        """Count one batch.

        cases: (N,). masks: (N, *spatial, 1); patches with one label each have no spatial axes, and no slice Dice.
        probability: (N, *spatial), of lesion. loss: the batch's mean.
        """
        masks = masks[..., 0]  # (N, *spatial, 1) -> (N, *spatial)
        truth, prediction = masks > 0, probability >= self._threshold
        spatial = tuple(range(1, masks.ndim))
        per_image = [np.count_nonzero(each, axis=spatial) for each in (truth & prediction, truth, prediction)]
        np.add.at(self._counts, cases, np.stack(per_image, axis=1))
        hard = soft = np.full(1, np.nan)
        if len(spatial) == 2:
            hard = overlap.slice_dice_hard_smooth1(masks, probability, self._threshold)
            soft = overlap.slice_dice_soft_smooth1(masks, probability)
        self._sums += loss * len(cases), hard.sum(), soft.sum()
        self.images += len(cases)

    def case_dice(self) -> list[float]:
        """Dice of each case over the slices seen so far; NaN where neither truth nor prediction has a voxel."""
        return [
            overlap.dice(overlap.Counts(int(both), int(predicted - both), int(true - both)))
            for both, true, predicted in self._counts
        ]

    def summary(self) -> dict[str, Any]:
        """The columns of an `epochs` row that are scores. Dice: mean over the cases where it is defined."""
        dice = self.case_dice()
        defined = [value for value in dice if not math.isnan(value)]
        loss, hard, soft = self._sums / max(self.images, 1)
        return {
            "images": self.images,
            "loss": float(loss),
            "dice": sum(defined) / len(defined) if defined else math.nan,
            "dice_undefined_cases": len(dice) - len(defined),
            "dice_slice_hard_smooth1": float(hard),
            "dice_slice_soft_smooth1": float(soft),
        }

    @property
    def running_dice(self) -> float:
        """Dice of all voxels seen so far, as one: what a progress bar shows."""
        both, true, predicted = (int(total) for total in self._counts.sum(axis=0))
        return overlap.dice(overlap.Counts(both, predicted - both, true - both))

    def to_json(self) -> dict[str, Any]:
        """Plain data from which `restore` goes on exactly."""
        return {"counts": self._counts.tolist(), "sums": self._sums.tolist(), "images": self.images}

    def restore(self, document: dict[str, Any]) -> None:
        """Go on from what `to_json` gave."""
        self._counts = np.array(document["counts"], np.int64).reshape(-1, 3)
        self._sums = np.array(document["sums"])
        self.images = document["images"]
