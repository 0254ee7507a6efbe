"""Where a brain comes from and what speaks against it. Shares are counted by hand on a volume of 10 x 10 x 10."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest

from mspipeline.errors import VolumeError
from mspipeline.preprocess.brain import (
    BrainChoice,
    BrainOrigin,
    BrainSource,
    brain_origin,
    counted,
    doubts_of,
    require_background,
    sources_of,
)

Mask = npt.NDArray[np.bool_]


def block(*sizes: tuple[int, int]) -> Mask:
    mask = np.zeros((10, 10, 10), bool)
    mask[tuple(slice(*size) for size in sizes)] = True
    return mask


SKULL_STRIPPED = block((2, 8), (2, 8), (2, 7))
"""180 of 1,000 voxels, none on a face."""
DOWN_TO_THE_NECK = block((2, 8), (2, 8), (0, 8))
"""288 voxels; of the 600 on the six faces, edges counted with each face they are on, 36."""


def test_shares_are_those_counted_by_hand() -> None:
    lesions = block((7, 9), (3, 4), (3, 5))  # four voxels, two of them at x = 8, outside
    origin = brain_origin("nonzero", SKULL_STRIPPED, lesions)
    assert (origin.share, origin.border, origin.lesions_outside) == (0.18, 0.0, 0.5)
    origin = brain_origin("nonzero", DOWN_TO_THE_NECK, None)
    assert (origin.share, origin.border, origin.lesions_outside) == (0.288, 36 / 600, None)
    assert brain_origin("mask", SKULL_STRIPPED, np.zeros((10, 10, 10), bool)).lesions_outside is None


@pytest.mark.parametrize(
    ("source", "brain", "lesions", "doubts"),
    [
        ("nonzero", SKULL_STRIPPED, SKULL_STRIPPED, ()),
        ("nonzero", DOWN_TO_THE_NECK, None, ("reaches the border",)),
        ("mask", DOWN_TO_THE_NECK, None, ()),  # somebody drew it
        ("nonzero", block((0, 9), (0, 9), (0, 9)), None, ("fills more than 70%",)),
        ("mask", block((0, 9), (0, 9), (0, 9)), None, ("fills more than 70%",)),
        ("mask", ~SKULL_STRIPPED, SKULL_STRIPPED, ("fills more than 70%", "lacks more than 10% of the lesion voxels")),
        ("mask", SKULL_STRIPPED, block((7, 9), (3, 4), (3, 5)), ("lacks more than 10%",)),
    ],
)
def test_a_brain_that_looks_wrong_is_doubted(
    source: BrainSource, brain: Mask, lesions: Mask | None, doubts: tuple[str, ...]
) -> None:
    found = brain_origin(source, brain, lesions).doubts
    assert len(found) == len(doubts)
    assert all(one.startswith(words) for one, words in zip(found, doubts, strict=True))


@pytest.mark.parametrize("background", [-1.0, 0.25])
def test_a_background_that_is_not_0_is_refused_unless_asked_for(background: float) -> None:
    image = np.where(SKULL_STRIPPED, 100.0, background)
    origin = brain_origin("nonzero", image != 0, None)
    choices: tuple[BrainChoice, ...] = ("auto", "mixed")
    for choice in choices:
        with pytest.raises(VolumeError, match=r"scan\.nii: 100% of the voxels are not 0.*--set brain=nonzero"):
            require_background(choice, origin, "scan.nii")
    require_background("nonzero", origin, "scan.nii")
    require_background("auto", brain_origin("mask", image != 0, None), "scan.nii")
    assert origin.share == 1.0


def test_cases_of_one_doubt_are_one_line() -> None:
    head = brain_origin("nonzero", DOWN_TO_THE_NECK, None)
    fine = brain_origin("mask", SKULL_STRIPPED, None)
    (line,) = doubts_of(
        {"sub-01": head, "sub-02": fine, "sub-03": head, "sub-04": None, "sub-05": head, "sub-06": head}
    )
    assert line.startswith(
        "the brain of sub-01, sub-03, sub-05 and 1 more, taken from the voxels that are not 0, reaches the border"
    )


def test_sources_follow_the_choice() -> None:
    masks = {"sub-01": True, "sub-02": False}
    assert sources_of("auto", masks) == sources_of("mixed", masks) == {"sub-01": "mask", "sub-02": "nonzero"}
    assert sources_of("nonzero", masks) == {"sub-01": "nonzero", "sub-02": "nonzero"}
    assert counted({"nonzero": 2, "mask": 1}) == "1 by mask files, 2 by the voxels that are not 0"


@pytest.mark.real
def test_real_skull_stripped_scans_raise_no_doubt_and_whole_heads_do(real_data: Path) -> None:
    def origin(path: Path) -> BrainOrigin:
        image: Any = nib.load(path)
        return brain_origin("nonzero", np.asarray(image.dataobj) != 0, None)

    stripped = [*real_data.glob("ms/sub-*/anat/*.nii.gz"), *real_data.glob("ms-tiny/sub-*/anat/*.nii.gz")]
    heads = list(real_data.glob("ms-raw/study1_*.nii.gz"))
    assert (len(stripped), len(heads)) == (11, 3)
    assert all(not origin(path).doubts for path in stripped)
    assert all(origin(path).doubts for path in heads)
