from __future__ import annotations

import numpy as np

from mspipeline.patches.candidates import candidates


def test_candidates_are_the_voxels_above_the_threshold_in_the_order_of_memory() -> None:
    image = np.zeros((2, 3, 4), np.float32)
    image[1, 0, 3], image[0, 2, 1], image[0, 0, 0] = 0.6, 2.0, 0.5
    assert candidates(image, 0.5).tolist() == [[0, 2, 1], [1, 0, 3]]


def test_no_voxel_outside_the_brain_is_a_candidate() -> None:
    image = np.ones((2, 2, 2), np.float32)
    brain = np.zeros((2, 2, 2), bool)
    brain[1, 0, 1] = True
    assert candidates(image, 0.5, within=brain).tolist() == [[1, 0, 1]]


def test_a_scan_without_bright_voxels_has_none() -> None:
    assert candidates(np.zeros((2, 2, 2), np.float32), 0.5).shape == (0, 3)
