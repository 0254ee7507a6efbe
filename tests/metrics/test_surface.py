"""mspipeline.metrics.surface on masks drawn by hand, and against distance transforms of the whole grid."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from mspipeline.errors import ShapeError
from mspipeline.metrics import surface
from mspipeline.metrics.surface import SurfaceDistances, surface_distances

BoolArray = npt.NDArray[np.bool_]
IN_MM = (
    "hausdorff_mm",
    "hd95_mm",
    "hd95_pooled_mm",
    "asd_truth_to_prediction_mm",
    "asd_prediction_to_truth_mm",
    "assd_mm",
    "masd_mm",
    "asd_anima_mm",
)


def empty() -> BoolArray:
    return np.zeros((12, 12, 12), bool)


def ball(centre: tuple[int, int, int], radius: float, shape: tuple[int, int, int] = (40, 40, 40)) -> BoolArray:
    grid = np.ogrid[tuple(slice(size) for size in shape)]
    return np.asarray(sum((axis - at) ** 2 for axis, at in zip(grid, centre, strict=True)) <= radius**2)


def test_scores_of_hand_written_distances() -> None:
    distances = SurfaceDistances(np.array([0.0, 1, 1, 4]), np.array([2.0, 0]))
    assert surface.hausdorff_mm(distances) == 4
    # 95th percentiles: of 4 voxels at rank 2.85, 1 + 0.85 * 3; of 2 at rank 0.95, 1.9; of all six, 0 0 1 1 2 4, at 4.75
    assert surface.hd95_mm(distances) == pytest.approx(3.55)
    assert surface.hd95_pooled_mm(distances) == pytest.approx(3.5)
    assert surface.asd_truth_to_prediction_mm(distances) == 1.5
    assert surface.asd_prediction_to_truth_mm(distances) == 1.0
    assert surface.assd_mm(distances) == 8 / 6
    assert surface.masd_mm(distances) == 1.25
    assert surface.asd_anima_mm(distances) == 2 / 6  # 0 0 0 0 and 2 0
    # Within 1 mm: 3 of 4 and 1 of 2
    assert surface.surface_dice(distances, tolerance_mm=1) == 4 / 6
    assert surface.boundary_jaccard(distances, tolerance_mm=1) == 2 / (2 + 1 + 1)


@pytest.mark.parametrize(("axis", "step_mm"), [(0, 0.5), (1, 2.0), (2, 3.0)])
def test_two_voxels_are_apart_by_the_spacing_of_their_axis(axis: int, step_mm: float) -> None:
    truth, prediction = empty(), empty()
    truth[4, 4, 4] = True
    prediction[tuple(7 if at == axis else 4 for at in range(3))] = True
    distances = surface_distances(truth, prediction, spacing_mm=(0.5, 2.0, 3.0))
    assert distances.truth_to_prediction_mm.tolist() == distances.prediction_to_truth_mm.tolist() == [3 * step_mm]


def test_the_inside_of_a_mask_is_not_its_surface() -> None:
    truth, prediction = empty(), empty()
    truth[2:7, 2:7, 2:7] = True  # 125 voxels, 27 inside
    prediction[4, 4, 4] = True
    distances = surface_distances(truth, prediction, spacing_mm=(1, 1, 1))
    assert len(distances.truth_to_prediction_mm) == 98
    assert surface.hausdorff_mm(distances) == pytest.approx(math.sqrt(12))
    assert surface.asd_prediction_to_truth_mm(distances) == 2


def test_a_mask_at_the_border_of_the_grid_has_its_surface_there() -> None:
    everywhere = np.ones((5, 5, 5), bool)
    distances = surface_distances(everywhere, everywhere, spacing_mm=(1, 1, 1))
    assert len(distances.truth_to_prediction_mm) == 98
    assert surface.hausdorff_mm(distances) == 0


def test_two_spheres_of_the_reference() -> None:
    distances = surface_distances(ball((15, 15, 15), 8), ball((15, 15, 19), 8), spacing_mm=(1, 1, 1))
    assert round(surface.assd_mm(distances), 2) == 1.89
    assert round(surface.asd_anima_mm(distances), 2) == 0.81


def test_what_anima_prints_depends_on_the_axis_and_the_right_distance_does_not() -> None:
    sphere = ball((15, 15, 15), 8)
    along = [
        surface_distances(sphere, ball(centre, 8), spacing_mm=(1, 1, 1))
        for centre in ((19, 15, 15), (15, 19, 15), (15, 15, 19))
    ]
    assert [round(surface.assd_mm(distances), 6) for distances in along] == [1.885778] * 3
    # Of the program's own surfaces (ITK's BinaryContourImageFilter) and loop: 0.006318, 0.028570, 0.812803
    assert [round(surface.asd_anima_mm(distances), 6) for distances in along] == [0.006318, 0.02857, 0.812803]


def test_boundary_jaccard_without_tolerance_is_the_jaccard_of_the_surfaces() -> None:
    truth, prediction = empty(), empty()
    truth[2:4, 2:4, 2:4] = True  # 8 voxels, all surface
    prediction[3:5, 2:4, 2:4] = True  # 4 of them shared
    distances = surface_distances(truth, prediction, spacing_mm=(1, 1, 1))
    assert surface.boundary_jaccard(distances, tolerance_mm=0) == 4 / 12
    assert surface.surface_dice(distances, tolerance_mm=0) == 8 / 16
    assert surface.boundary_jaccard(distances, tolerance_mm=1) == surface.surface_dice(distances, tolerance_mm=1) == 1


def test_a_distance_of_exactly_the_tolerance_is_within_it() -> None:
    truth, prediction = empty(), empty()
    truth[0, 0, 0] = prediction[3, 0, 0] = True
    distances = surface_distances(truth, prediction, spacing_mm=(0.1, 1, 1))  # 0.30000000000000004 mm
    assert surface.surface_dice(distances, tolerance_mm=0.3) == 1
    assert surface.surface_dice(distances, tolerance_mm=0.29) == 0


@pytest.mark.parametrize("empty_one", ["truth", "prediction"])
def test_distances_to_an_empty_mask_are_nan_and_nothing_of_it_is_near(empty_one: str) -> None:
    masks = {"truth": ball((5, 5, 5), 2, (12, 12, 12)), "prediction": ball((5, 5, 5), 2, (12, 12, 12))}
    masks[empty_one] = empty()
    distances = surface_distances(masks["truth"], masks["prediction"], spacing_mm=(1, 1, 1))
    for name in IN_MM:
        assert math.isnan(getattr(surface, name)(distances)), name
    assert surface.surface_dice(distances, tolerance_mm=1) == 0
    assert surface.boundary_jaccard(distances, tolerance_mm=1) == 0


def test_two_empty_masks_have_no_score_at_all() -> None:
    distances = surface_distances(empty(), empty(), spacing_mm=(1, 1, 1))
    for name in IN_MM:
        assert math.isnan(getattr(surface, name)(distances)), name
    assert math.isnan(surface.surface_dice(distances, tolerance_mm=1))
    assert math.isnan(surface.boundary_jaccard(distances, tolerance_mm=1))


def by_transform(truth: BoolArray, prediction: BoolArray, spacing_mm: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """Sorted distances of the truth's surface, from a distance transform of the whole grid."""
    ours = truth & ~ndimage.binary_erosion(truth)
    theirs = prediction & ~ndimage.binary_erosion(prediction)
    transform = np.asarray(ndimage.distance_transform_edt(~theirs, sampling=spacing_mm), np.float64)
    return np.sort(transform[ours])


@given(st.integers(0, 10_000), st.floats(0.05, 0.9))
def test_noise_gives_the_distances_of_a_distance_transform(seed: int, share: float) -> None:
    random = np.random.default_rng(seed)
    truth, prediction = random.random((2, 5, 7, 6)) < share
    truth[0, 0, 0] = prediction[4, 6, 5] = True
    spacing_mm = (0.7, 1.0, 3.0)
    distances = surface_distances(truth, prediction, spacing_mm=spacing_mm)
    for ours, expected in (
        (distances.truth_to_prediction_mm, by_transform(truth, prediction, spacing_mm)),
        (distances.prediction_to_truth_mm, by_transform(prediction, truth, spacing_mm)),
    ):
        np.testing.assert_allclose(np.sort(ours), expected, rtol=1e-12)


def test_unfit_arguments_are_refused() -> None:
    with pytest.raises(ShapeError, match="back to the grid"):
        surface_distances(empty(), np.zeros((12, 12, 13), bool), spacing_mm=(1, 1, 1))
    with pytest.raises(ValueError, match="three lengths above 0"):
        surface_distances(empty(), empty(), spacing_mm=(1, 1))
    with pytest.raises(ValueError, match="tolerance_mm -1"):
        surface.surface_dice(SurfaceDistances(np.ones(1), np.ones(1)), tolerance_mm=-1)
