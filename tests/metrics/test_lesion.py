"""mspipeline.metrics.lesion: a row for each lesion, on masks drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mspipeline.metrics.lesion import LesionRow, lesion_rows

SPACING_MM = (0.5, 2.0, 3.0)  # 3 mm^3 a voxel
# Index axes to world: x runs to the left, y and z as they are; the first voxel lies at (100, -20, 5)
AFFINE_RAS = np.array([[-0.5, 0, 0, 100], [0, 2, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1.0]])


def test_missed_found_and_invented_lesions_each_have_a_row() -> None:
    truth, prediction = np.zeros((20, 10, 10), bool), np.zeros((20, 10, 10), bool)
    truth[0:4, 0, 0] = True  # at the corner of the grid, half of it found
    truth[10, 5, 5] = True  # missed, and of 3 mm^3, which MSSEG does not count
    prediction[2:4, 0, 0] = True
    prediction[19, 7:10, 9] = True  # invented, at the border
    rows = lesion_rows(truth, prediction, spacing_mm=SPACING_MM, affine_ras=AFFINE_RAS)
    assert rows == [
        LesionRow("truth", 1, 4, 12.0, 99.25, -20.0, 5.0, 2, True, True),
        LesionRow("truth", 2, 1, 3.0, 95.0, -10.0, 20.0, 0, False, None),
        LesionRow("prediction", 1, 3, 9.0, 90.5, -4.0, 32.0, 0, False, False),
        LesionRow("prediction", 2, 2, 6.0, 98.75, -20.0, 5.0, 2, True, True),
    ]


def test_one_voxel_of_overlap_is_not_a_detection_of_msseg() -> None:
    truth, prediction = np.zeros((40, 3, 3), bool), np.zeros((40, 3, 3), bool)
    truth[0:20, 1, 1] = True
    prediction[19:25, 1, 1] = True  # 1 of 20 truth voxels, 5 of 6 outside
    found, invented = lesion_rows(truth, prediction, spacing_mm=(1, 1, 1), affine_ras=np.eye(4))
    assert (found.overlap_vox, found.detected_any_voxel, found.detected_msseg2016) == (1, True, False)
    assert (invented.overlap_vox, invented.detected_any_voxel, invented.detected_msseg2016) == (1, True, False)


def test_one_prediction_over_two_lesions_finds_both() -> None:
    truth, prediction = np.zeros((30, 3, 3), bool), np.zeros((30, 3, 3), bool)
    truth[0:10, 1, 1] = truth[12:22, 1, 1] = True
    prediction[0:22, 1, 1] = True
    rows = lesion_rows(truth, prediction, spacing_mm=(1, 1, 1), affine_ras=np.eye(4))
    assert [(row.mask, row.lesion, row.overlap_vox, row.detected_msseg2016) for row in rows] == [
        ("truth", 1, 10, True),
        ("truth", 2, 10, True),
        ("prediction", 1, 20, True),
    ]


def test_empty_masks_have_no_rows() -> None:
    nothing = np.zeros((4, 4, 4), bool)
    assert lesion_rows(nothing, nothing, spacing_mm=(1, 1, 1), affine_ras=np.eye(4)) == []


def test_spacing_and_affine_of_two_grids_are_refused() -> None:
    nothing = np.zeros((4, 4, 4), bool)
    with pytest.raises(ValueError, match=r"is not that of the affine, \(0.5, 2.0, 3.0\); take both from one grid"):
        lesion_rows(nothing, nothing, spacing_mm=(1, 1, 1), affine_ras=AFFINE_RAS)
    with pytest.raises(ValueError, match="three lengths above 0"):
        lesion_rows(nothing, nothing, spacing_mm=(1, 0, 1), affine_ras=np.eye(4))
    with pytest.raises(ValueError, match=r"expected \(4, 4\)"):
        lesion_rows(nothing, nothing, spacing_mm=(1, 1, 1), affine_ras=np.eye(3))
