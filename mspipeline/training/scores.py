"""The scores of one pass over a subset, gathered batch by batch with the suite's own metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.channels import label_map
from mspipeline.labels import LESIONS, LabelSet
from mspipeline.metrics import overlap


class EpochScores:
    """Loss and Dice of a pass, whatever the order in which its slices or patches come.

    cases: how many cases the reader numbers. threshold: probability from which a voxel has a label, see
    `channels.label_map`. labels: of the masks; Dice is of each but the background.
    """

    def __init__(self, cases: int, threshold: float, labels: LabelSet = LESIONS) -> None:
        self._threshold, self._labels = threshold, labels
        # Of each case and label: true positive, in truth, in prediction.
        self._counts = np.zeros((cases, len(labels.foreground), 3), np.int64)
        self._sums = np.zeros(3)  # over images: loss, hard slice Dice, soft slice Dice
        self.images = 0

    def add(
        self,
        cases: npt.NDArray[np.int32],
        masks: npt.NDArray[np.float32],
        probabilities: Mapping[str, npt.NDArray[np.float32]],
        loss: float,
    ) -> None:
        """Count one batch.

        cases: (N,). masks: (N, *spatial, 1); patches with one label each have no spatial axes, and no slice Dice.
        probabilities: label -> (N, *spatial), those that decide. loss: the batch's mean.
        """
        masks = masks[..., 0]  # (N, *spatial, 1) -> (N, *spatial)
        predicted = label_map(self._labels, probabilities, threshold=self._threshold)
        spatial = tuple(range(1, masks.ndim))
        hard = soft = np.full(1, np.nan)
        slice_dice = []
        for place, name in enumerate(self._labels.foreground):
            truth, prediction = (each == self._labels.number(name) for each in (masks, predicted))
            per_image = [np.count_nonzero(each, axis=spatial) for each in (truth & prediction, truth, prediction)]
            np.add.at(self._counts[:, place], cases, np.stack(per_image, axis=1))
            if len(spatial) == 2:
                slice_dice.append(
                    (
                        overlap.slice_dice_hard_smooth1(truth, prediction, 0.5),
                        overlap.slice_dice_soft_smooth1(truth.astype(np.float32), probabilities[name]),
                    )
                )
        if slice_dice:
            hard, soft = np.mean(slice_dice, axis=0)
        self._sums += loss * len(cases), hard.sum(), soft.sum()
        self.images += len(cases)

    def case_dice(self, label: str) -> list[float]:
        """Dice of each case over the slices seen so far; NaN where neither truth nor prediction has a voxel."""
        return [_dice(counts) for counts in self._counts[:, self._labels.foreground.index(label)]]

    def summary(self) -> dict[str, Any]:
        """The columns of an `epochs` row that are scores.

        dice: of each label the mean over the cases where it is defined; of these the mean over labels. Undefined cases
        are those where no label's is.
        """
        of_labels = [self.case_dice(label) for label in self._labels.foreground]
        loss, hard, soft = self._sums / max(self.images, 1)
        return {
            "images": self.images,
            "loss": float(loss),
            "dice": _mean([_mean(dice) for dice in of_labels]),
            "dice_undefined_cases": sum(all(map(math.isnan, of_case)) for of_case in zip(*of_labels, strict=True)),
            "dice_slice_hard_smooth1": float(hard),
            "dice_slice_soft_smooth1": float(soft),
        }

    @property
    def running_dice(self) -> float:
        """Dice of all voxels seen so far, as one, mean over labels: what a progress bar shows."""
        return _mean([_dice(counts) for counts in self._counts.sum(axis=0)])

    def to_json(self) -> dict[str, Any]:
        """Plain data from which `restore` goes on exactly."""
        counts = self._counts.reshape(-1, 3)  # (cases * labels, 3): of one label as before there were several
        return {"counts": counts.tolist(), "sums": self._sums.tolist(), "images": self.images}

    def restore(self, document: dict[str, Any]) -> None:
        """Go on from what `to_json` gave."""
        self._counts = np.array(document["counts"], np.int64).reshape(-1, len(self._labels.foreground), 3)
        self._sums = np.array(document["sums"])
        self.images = document["images"]


def _dice(counts: npt.NDArray[np.int64]) -> float:
    """Dice of the voxels that are (both, in truth, in prediction)."""
    both, true, predicted = (int(count) for count in counts)
    return overlap.dice(overlap.Counts(both, predicted - both, true - both))


def _mean(values: Sequence[float]) -> float:
    """Of those that are defined; NaN where none is."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan
