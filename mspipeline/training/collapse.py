"""Collapse: a training whose network predicts nothing, or lesion everywhere, epoch after epoch.

Many a healthy training predicts nothing in its first epochs, while lesions are a hundredth of the voxels. So one that
has found some lesion before is called collapsed after few epochs, one that never did after many, or where it ends so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

To = Literal["nothing", "everything"]

EPOCHS_IN_A_ROW = 3
"""Of one and the same prediction everywhere, after which a training that found something before has collapsed; also the
fewest that count at its end."""
EPOCHS_FROM_THE_START = 10
"""So many, and this share of all, one may begin with:"""
SHARE_FROM_THE_START = 0.25


@dataclass(frozen=True)
class Collapse:
    """to: what is predicted. epoch: the first of the unbroken series of such epochs."""

    to: To
    epoch: int


@dataclass(frozen=True)
class Predictions:
    """What the epochs so far predicted. to, epoch: the unbroken series that is going on, and where it began; None where
    the last epoch found something. found: whether any epoch did."""

    to: To | None = None
    epoch: int | None = None
    found: bool = False

    def after(self, epoch: int, to: To | None) -> Predictions:
        """With one more epoch, in which `to` was predicted; None: neither nothing nor everything."""
        if to is None:
            return Predictions(found=True)
        return self if to == self.to else replace(self, to=to, epoch=epoch)

    def collapse(self, epoch: int, epochs: int, *, over: bool) -> Collapse | None:
        """Whether a training of so many epochs has collapsed after this one. over: whether it was the last."""
        if self.to is None or self.epoch is None:
            return None
        few = self.found or over
        allowed = EPOCHS_IN_A_ROW if few else max(EPOCHS_FROM_THE_START, math.ceil(SHARE_FROM_THE_START * epochs))
        return Collapse(self.to, self.epoch) if epoch - self.epoch + 1 >= allowed else None


def predicted_everywhere(truth: int, predicted: int, voxels: int) -> To | None:
    """What a pass predicted in all of its voxels; None where it did not, or where that is the truth."""
    if predicted == 0 and truth > 0:
        return "nothing"
    return "everything" if predicted == voxels > truth else None
