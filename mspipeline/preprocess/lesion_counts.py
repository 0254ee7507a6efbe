"""How many lesions a mask holds, and what is left of them on another grid.

A lesion is a component whose voxels share a face, an edge or a corner (26-connected). On a coarser grid the nearest
voxel is taken: lesions smaller than its voxels may leave none, others grow or merge. A lesion counts as lost where it
left no voxel; merged ones are not lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mspipeline.config import Strict
from mspipeline.errors import DatasetError
from mspipeline.metrics import components
from mspipeline.metrics.crop import common_box
from mspipeline.volume import BoolArray

CONNECTIVITY: Final = 26
KEPT_MIN = 0.5
"""Share of a mask's volume that must be left of it: below it, something else is wrong than a coarser grid."""
NOTICEABLE = 0.1
"""A change of volume that is worth a word."""

Labels = npt.NDArray[np.unsignedinteger[Any]]
Affine = npt.NDArray[np.floating[Any]]


class LesionCount(Strict):
    """Lesions (26-connected components) of one mask, and their volume in millilitres, to a thousandth of a mm^3."""

    lesions: int
    ml: float


class LesionCounts(Strict):
    """What became of a case's lesions between the file and its shard.

    drawn: on the mask's own grid. scan: on the scan's, where `evaluate` scores: the same unless it was resampled.
    stored: in the slices; None where the shard keeps the scan's own grid. lost_on_scan, lost_in_slices: lesions that
    left no voxel there, of those on the grid before. outside: share of the drawn voxels outside the scan's field of
    view.
    """

    drawn: LesionCount
    scan: LesionCount
    stored: LesionCount | None = None
    lost_on_scan: int = 0
    lost_in_slices: int = 0
    outside: float = 0.0

    def warning(self) -> str | None:
        """What is noticeably lost or changed, as a phrase; None where nothing is."""
        parts = []
        if self.lost_on_scan or self.outside or _changed(self.drawn, self.scan):
            beyond = f", {self.outside:.0%} of the voxels outside its field of view" if self.outside else ""
            parts.append(f"{_phrase(self.scan)} on the scan's grid ({self.lost_on_scan} lost{beyond})")
        if self.stored is not None and (self.lost_in_slices or _changed(self.scan, self.stored)):
            parts.append(f"{_phrase(self.stored)} in the slices ({self.lost_in_slices} lost)")
        return f"{_phrase(self.drawn)} drawn, {', '.join(parts)}" if parts else None


@dataclass(frozen=True)
class Placing:
    """A mask before and after it was put onto another grid. lost: lesions without a voxel there. outside: as above.

    lost_ml: volume of the lost lesions and of what lies outside the field of view.
    """

    before: LesionCount
    after: LesionCount
    lost: int
    outside: float
    lost_ml: float


def label(mask: BoolArray) -> Labels:
    """(X, Y, Z), each lesion's number from 1 on, 0 outside."""
    labels = np.zeros(mask.shape, np.uint32)
    box = common_box(mask, mask)
    if box is not None:
        labels[box] = components.label(mask[box], CONNECTIVITY)
    return labels


def count(mask: BoolArray, voxel_ml: float) -> LesionCount:
    """Lesions of a mask."""
    return _count(label(mask), voxel_ml)


def placing(before: Labels, before_ml: float, after: Labels, after_ml: float, to_after: Affine) -> Placing:
    """What became of labelled lesions whose labels were carried to another grid.

    before_ml, after_ml: volume of a voxel. to_after: (4, 4), voxels before to voxels after.
    """
    drawn = np.argwhere(before)
    places = drawn @ to_after[:3, :3].T + to_after[:3, 3]
    out = ~inside(places, after.shape)
    numbers = before[tuple(drawn.T)]
    kept = np.unique(after[after > 0])
    gone = ~np.isin(numbers, kept)
    found = _count(before, before_ml)
    return Placing(
        found,
        count(after > 0, after_ml),
        found.lesions - len(kept),
        float(out.mean()) if len(out) else 0.0,
        float((out | gone).sum()) * before_ml,
    )


def inside(places: npt.NDArray[np.float64], shape: Sequence[int]) -> BoolArray:
    """(N,) whether places (N, 3), in voxels, lie in the field of view of an image; voxels are boxes."""
    within = (places >= -0.5) & (places <= np.array(shape) - 0.5)
    return np.asarray(within.all(axis=1), bool)


def require_most(what: str, found: Placing, *, remedy: str) -> None:
    """Raises DatasetError where more than half of a mask was lost."""
    kept_ml = min(found.before.ml - found.lost_ml, found.after.ml)
    if kept_ml < KEPT_MIN * found.before.ml:
        raise DatasetError(
            f"{what}, {found.outside:.0%} of its voxels lie outside the field of view: {_phrase(found.before)} become "
            f"{_phrase(found.after)} (26-connected; {found.lost} lost), expected at least {KEPT_MIN:.0%} to be kept; "
            f"{remedy}"
        )


def counts(
    scan: LesionCount, placing: Placing | None, *, stored: LesionCount | None = None, lost_in_slices: int = 0
) -> LesionCounts:
    """The counts of a case. scan: on the scan's own grid."""
    if placing is None:
        return LesionCounts(drawn=scan, scan=scan, stored=stored, lost_in_slices=lost_in_slices)
    return LesionCounts(
        drawn=placing.before,
        scan=scan,
        stored=stored,
        lost_on_scan=placing.lost,
        lost_in_slices=lost_in_slices,
        outside=round(placing.outside, 6),
    )


def _count(labels: Labels, voxel_ml: float) -> LesionCount:
    ml = round(int(np.count_nonzero(labels)) * voxel_ml, 6)
    return LesionCount(lesions=int(labels.max(initial=0)), ml=ml)


def _changed(before: LesionCount, after: LesionCount) -> bool:
    return abs(after.ml - before.ml) > NOTICEABLE * before.ml


def _phrase(count: LesionCount) -> str:
    return f"{count.lesions} lesion{'' if count.lesions == 1 else 's'} of {count.ml:.3g} ml"
