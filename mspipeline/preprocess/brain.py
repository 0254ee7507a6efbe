"""Where the brain of a case comes from, and what speaks against it being the brain.

A recipe's `brain`: "auto" takes the cases' masks, or, in a dataset without masks, the voxels that are not 0; "mixed"
does so case by case; "mask" and "nonzero" insist. The non-zero voxels are the brain of a skull-stripped scan alone: of
a whole head they hold skull and neck, of one whose background is not 0 everything, and every intensity is then
normalised by the wrong numbers without any error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from mspipeline.config import Strict
from mspipeline.errors import VolumeError, shown
from mspipeline.volume import BoolArray

BrainChoice = Literal["auto", "mixed", "mask", "nonzero"]
BrainSource = Literal["mask", "nonzero"]

WORDS: Mapping[str, str] = {"mask": "mask files", "nonzero": "the voxels that are not 0"}
MASKS = "derivatives/*/.../*_desc-brain_mask.nii.gz"

BORDER_MAX = 0.05
"""Share of the volume's faces that a skull-stripped brain covers at most. Measured: at most 0.001 in the skull-stripped
scans of open-MS and MSSEG, 0.17 to 0.22 in open-MS's whole heads, whose neck and nose reach the border."""
MASK_SHARE_MAX = 0.7
"""A ball fills 0.52 of its box, a cylinder 0.79; brain masks of whole scans fill 0.07 to 0.3."""
NEARLY_ALL = 0.95
OUTSIDE_MAX = 0.1
"""Share of a case's lesion voxels that may lie outside its brain: masks drawn by hand cross its edge by a voxel."""


class BrainOrigin(Strict):
    """Of one case. share: of the volume's voxels that are brain. border: of the voxels on its six faces.

    lesions_outside: share of the lesion voxels that are not brain; None without a mask or without lesions. Where each
    modality has non-zero voxels of its own, those of the one that the recipe names first, or takes candidates from.
    """

    source: BrainSource
    share: float
    border: float
    lesions_outside: float | None = None

    @property
    def doubts(self) -> tuple[str, ...]:
        """What makes it look wrong, in words that follow "the brain of sub-01"."""
        found = []
        if self.share > MASK_SHARE_MAX:
            found.append(f"fills more than {MASK_SHARE_MAX:.0%} of the volume")
        elif self.source == "nonzero" and self.border > BORDER_MAX:
            found.append("reaches the border of the volume, as a whole head does and a skull-stripped brain does not")
        if self.lesions_outside is not None and self.lesions_outside > OUTSIDE_MAX:
            found.append(f"lacks more than {OUTSIDE_MAX:.0%} of the lesion voxels")
        return tuple(found)


def brain_origin(source: BrainSource, brain: BoolArray, lesions: BoolArray | None) -> BrainOrigin:
    """What is known of a case's brain. brain, lesions: (X, Y, Z), one shape."""
    share = float(np.count_nonzero(brain)) / brain.size
    faces = [np.moveaxis(brain, axis, 0)[[0, -1]] for axis in range(3)]
    border = sum(np.count_nonzero(face) for face in faces) / sum(face.size for face in faces)
    outside = None
    if lesions is not None and (drawn := int(np.count_nonzero(lesions))):
        outside = float(np.count_nonzero(lesions & ~brain)) / drawn
    return BrainOrigin(source=source, share=share, border=float(border), lesions_outside=outside)


def require_background(choice: BrainChoice, origin: BrainOrigin, scan: str) -> None:
    """Raises VolumeError where nearly all voxels are brain because they are not 0, and the recipe does not insist.

    scan: the image, for the error line.
    """
    if origin.source == "nonzero" and choice != "nonzero" and origin.share > NEARLY_ALL:
        raise VolumeError(
            f"{scan}: {origin.share:.0%} of the voxels are not 0, so they cannot tell the brain from the background; "
            f"add a brain mask ({MASKS}), set the background to 0, or take all of them by `--set brain=nonzero`"
        )


def doubts_of(origins: Mapping[str, BrainOrigin | None]) -> list[str]:
    """A line for each doubt, with the cases that it is about. origins: of each case."""
    cases: dict[tuple[str, str], list[str]] = {}
    for case, origin in origins.items():
        if origin is not None:
            for doubt in origin.doubts:
                cases.setdefault((origin.source, doubt), []).append(case)
    return [
        f"the brain of {shown(names)}, taken from {WORDS[source]}, {doubt}; look at it, or add masks ({MASKS})"
        for (source, doubt), names in cases.items()
    ]


def sources_of(choice: BrainChoice, has_mask: Mapping[str, bool]) -> dict[str, BrainSource]:
    """Case -> where its brain comes from. has_mask: whether it has a brain mask."""
    return {case: "mask" if mask and choice != "nonzero" else "nonzero" for case, mask in has_mask.items()}


def counted(sources: Mapping[str, int]) -> str:
    """How many cases by which source, in words.

    >>> counted({"mask": 3, "nonzero": 1})
    '3 by mask files, 1 by the voxels that are not 0'
    """
    return ", ".join(f"{count} by {WORDS[source]}" for source, count in sorted(sources.items()) if count)
