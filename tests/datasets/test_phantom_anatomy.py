"""mspipeline.datasets.phantom_anatomy: what a synthetic head must look like, as numbers."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from mspipeline.datasets.phantom_anatomy import (
    NOISE_SIGMA,
    SURVEY_AXES,
    grid_axes,
    lesion_volumes_ml,
    make_head,
    make_tissues,
    place_lesions,
    smooth_noise,
)

AXES = grid_axes((64, 64, 48), (3.0, 3.0, 3.125))
Case = tuple[dict[str, npt.NDArray[np.int16]], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [make_head(0, number, AXES) for number in (1, 2, 3, 4)]


def test_grid_axes_put_zero_in_the_middle() -> None:
    x, y, z = grid_axes((4, 3, 1), (2.0, 1.5, 7.0))
    assert x.tolist() == [-3, -1, 1, 3]
    assert y.tolist() == [-1.5, 0, 1.5]
    assert z.tolist() == [0]


def test_equal_arguments_give_equal_arrays_and_other_cases_other_heads(cases: list[Case]) -> None:
    again = make_head(0, 2, AXES)
    for name, scan in cases[1][0].items():
        np.testing.assert_array_equal(again[0][name], scan)
        assert (cases[0][0][name] != scan).mean() > 0.5
    np.testing.assert_array_equal(again[1], cases[1][1])
    assert (make_head(1, 2, AXES)[0]["FLAIR"] != cases[1][0]["FLAIR"]).mean() > 0.5


def test_smooth_noise_has_unit_variance_and_belongs_to_space_not_to_the_grid() -> None:
    coarse = smooth_noise(np.random.default_rng(3), grid_axes((41, 41, 31), (6.0, 6.0, 6.0)), 9.0)
    fine = smooth_noise(np.random.default_rng(3), grid_axes((81, 81, 61), (3.0, 3.0, 3.0)), 9.0)
    np.testing.assert_allclose(fine[::2, ::2, ::2], coarse, atol=1e-4)
    assert coarse.std() == pytest.approx(1, abs=0.1)
    assert np.abs(np.diff(fine, axis=0)).mean() < 0.5 * np.abs(np.diff(fine[::4], axis=0)).mean()


def test_tissue_fractions_fill_each_voxel_at_most_once() -> None:
    tissues = make_tissues(np.random.SeedSequence(5), AXES)
    parts = np.stack([tissues.scalp, tissues.skull, tissues.csf, tissues.grey, tissues.white])
    assert parts.min() >= -1e-6
    total = parts.sum(axis=0)
    assert total.max() <= 1 + 1e-5
    np.testing.assert_allclose(total[tissues.brain], 1, atol=1e-5)
    assert total[0, 0, 0] == 0


def test_brain_has_the_size_of_a_brain(cases: list[Case]) -> None:
    volumes_l = [brain.sum() * 3 * 3 * 3.125 / 1e6 for _, _, brain in cases]
    assert all(0.8 < volume < 1.5 for volume in volumes_l)
    assert max(volumes_l) / min(volumes_l) > 1.02


def test_head_leaves_air_on_every_side(cases: list[Case]) -> None:
    for scans, _, _ in cases:
        t1 = scans["T1w"]
        for side in (t1[0], t1[-1], t1[:, 0], t1[:, -1]):
            assert side.mean() < 2 * NOISE_SIGMA


def test_contrasts_of_each_modality_are_those_of_the_clinic(cases: list[Case]) -> None:
    for number, (scans, lesion, _) in enumerate(cases, start=1):
        tissues = make_tissues(np.random.SeedSequence([0, number]).spawn(3)[0], AXES)
        places = {
            "csf": tissues.csf > 0.99,
            "grey": tissues.grey > 0.99,
            "white": (tissues.white > 0.99) & ~lesion,
            "lesion": lesion,
        }
        t1, t2, flair = ({k: float(scans[m][v].mean()) for k, v in places.items()} for m in ("T1w", "T2w", "FLAIR"))
        assert t1["white"] > t1["lesion"] > t1["csf"]
        assert t1["white"] > t1["grey"] > t1["csf"]
        assert t2["csf"] > t2["lesion"] > t2["white"]
        assert t2["csf"] > t2["grey"] > t2["white"]
        assert flair["lesion"] > flair["grey"] > flair["white"] > flair["csf"]
        assert flair["lesion"] - flair["white"] > 5 * NOISE_SIGMA


def test_lesions_lie_in_white_matter_inside_the_brain(cases: list[Case]) -> None:
    for number, (_, lesion, brain) in enumerate(cases, start=1):
        white = make_tissues(np.random.SeedSequence([0, number]).spawn(3)[0], AXES).white
        assert not (lesion & ~brain).any()
        assert white[lesion].mean() > 0.9
        assert white[lesion].min() > 0.3  # before the point spread a lesion voxel is at least half white matter


def test_lesion_load_is_that_of_patients(cases: list[Case]) -> None:
    loads = [lesion.sum() / brain.sum() for _, lesion, brain in cases]
    assert all(0.002 < load < 0.02 for load in loads)
    assert len(set(loads)) == len(loads)


def test_lesion_volumes_are_lognormal_and_heavy_tailed() -> None:
    volumes = lesion_volumes_ml(np.random.default_rng(0), 40_000)
    assert np.median(volumes) == pytest.approx(0.25, rel=0.03)
    assert np.log(volumes).std() == pytest.approx(1, abs=0.02)
    assert volumes.max() / np.median(volumes) > 30
    largest_tenth = np.sort(volumes)[-4000:].sum() / volumes.sum()
    assert largest_tenth == pytest.approx(0.39, abs=0.03)  # of a lognormal: 1 - Phi(1.2816 - sigma)


def test_lesions_prefer_the_ventricles() -> None:
    survey = make_tissues(np.random.SeedSequence(1), SURVEY_AXES)
    lesions = [lesion for seed in range(20) for lesion in place_lesions(np.random.default_rng(seed), survey)]
    index = tuple(
        np.array([np.abs(axis - lesion.centre_mm[k]).argmin() for lesion in lesions])
        for k, axis in enumerate(SURVEY_AXES)
    )
    nearest_quarter = np.quantile(survey.ventricle_mm[survey.white > 0.95], 0.75)
    assert (survey.ventricle_mm[index] > nearest_quarter).mean() > 0.5


def test_air_carries_rician_noise(cases: list[Case]) -> None:
    corners = np.zeros((64, 64, 48), bool)
    corners[np.ix_([0, 1, 2, 3, 60, 61, 62, 63], [0, 1, 2, 3, 60, 61, 62, 63])] = True
    for scan in cases[0][0].values():
        air = scan[corners]
        assert air.mean() == pytest.approx(20 * math.sqrt(math.pi / 2), abs=0.8)  # 25.07
        assert air.std() == pytest.approx(20 * math.sqrt(2 - math.pi / 2), abs=0.6)  # 13.10


def test_a_finer_grid_shows_the_same_head(cases: list[Case]) -> None:
    fine = grid_axes((96, 96, 72), (2.0, 2.0, 150 / 72))
    _, lesion, brain = make_head(0, 1, fine)
    coarse_ml, fine_ml = 3 * 3 * 3.125 / 1000, 2 * 2 * (150 / 72) / 1000
    assert brain.sum() * fine_ml == pytest.approx(cases[0][2].sum() * coarse_ml, rel=0.01)
    assert lesion.sum() * fine_ml == pytest.approx(cases[0][1].sum() * coarse_ml, rel=0.25)
