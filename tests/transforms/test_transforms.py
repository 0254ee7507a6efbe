"""Each transform by hand on a few voxels, by another implementation on an image; labels turn with it or stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mspipeline.transforms.registry import TRANSFORMS
from mspipeline.transforms.transform import ImageTransform, IntensityTransform, SpatialTransform, draw_factors

SHAPES = [(6, 6, 1), (5, 7, 3), (4, 4, 6, 2)]


def transform(name: str, **settings: Any) -> ImageTransform:
    return TRANSFORMS[name](**{"probability": 1.0, **settings})


def image_of(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(4).normal(2, 3, shape).astype(np.float32)


def drawn(
    transform: ImageTransform, image: np.ndarray, labels: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    return transform(image, labels, np.random.default_rng(seed))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", sorted(TRANSFORMS.built_in))
def test_shapes_types_and_arguments_stay_and_labels_do_as_their_kind_says(name: str, shape: tuple[int, ...]) -> None:
    image = image_of(shape)
    kind = TRANSFORMS[name]
    for label_shape in (shape[:-1], (*shape[:-1], 1)):
        labels = np.random.default_rng(1).integers(0, 500, label_shape).astype(np.int32)
        before = image.copy(), labels.copy()
        changes = 0
        for seed in range(20):
            changed, moved = drawn(transform(name), image, labels, seed)
            assert (changed.shape, changed.dtype, moved.shape, moved.dtype) == (
                shape,
                np.float32,
                label_shape,
                np.int32,
            )
            assert np.isfinite(changed).all()
            if issubclass(kind, IntensityTransform):
                assert moved is labels
            else:
                assert issubclass(kind, SpatialTransform)
                assert sorted(changed.ravel()) == sorted(image.ravel())
                assert sorted(moved.ravel()) == sorted(labels.ravel())
            changes += not np.array_equal(changed, image)
        assert changes >= 5
        assert np.array_equal(image, before[0])
        assert np.array_equal(labels, before[1])


@pytest.mark.parametrize("name", ["flip", "rotate90"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_labels_move_with_the_image(name: str, shape: tuple[int, ...]) -> None:
    labels = np.arange(np.prod(shape[:-1])).reshape(shape[:-1])
    image = np.repeat(labels[..., None], shape[-1], axis=-1).astype(np.float32)
    for seed in range(20):
        changed, moved = drawn(transform(name), image, labels, seed)
        assert np.array_equal(changed, np.repeat(moved[..., None], shape[-1], axis=-1))


def test_flips_and_quarter_turns_are_all_drawn_about_as_often() -> None:
    image = np.arange(4, dtype=np.float32).reshape(2, 2, 1)
    labels = np.zeros((2, 2), np.uint8)
    expected = {
        "flip": {(0, 1, 2, 3), (1, 0, 3, 2), (2, 3, 0, 1), (3, 2, 1, 0)},
        "rotate90": {(0, 1, 2, 3), (1, 3, 0, 2), (3, 2, 1, 0), (2, 0, 3, 1)},
    }
    for name, results in expected.items():
        found = [tuple(drawn(transform(name), image, labels, seed)[0].ravel().tolist()) for seed in range(400)]
        assert set(found) == results
        assert all(60 < found.count(each) < 140 for each in results)  # 100 each; the chance of leaving it is 1e-5


def test_an_axis_that_is_not_named_is_not_flipped_and_a_box_is_turned_by_halves_alone() -> None:
    image = np.arange(6, dtype=np.float32).reshape(2, 3, 1)
    labels = np.zeros((2, 3), np.uint8)
    flipped = {tuple(drawn(transform("flip", axes=(1,)), image, labels, seed)[0].ravel()) for seed in range(20)}
    assert flipped == {(0, 1, 2, 3, 4, 5), (2, 1, 0, 5, 4, 3)}
    turned = {tuple(drawn(transform("rotate90"), image, labels, seed)[0].ravel()) for seed in range(20)}
    assert turned == {(0, 1, 2, 3, 4, 5), (5, 4, 3, 2, 1, 0)}


def test_noise_has_the_standard_deviation_that_is_asked_for_and_mean_0() -> None:
    image = np.full((200, 200, 1), 7, np.float32)
    noise = drawn(transform("gaussian_noise", sigma=(0.5, 0.5)), image, np.zeros((200, 200)))[0] - 7
    assert noise.std() == pytest.approx(0.5, rel=0.02)  # of 40,000 numbers: 0.35 per cent
    assert abs(noise.mean()) < 0.0125  # five standard errors


def test_brightness_multiplies_a_channel_by_one_number_of_its_range() -> None:
    image = image_of((8, 8, 3))
    ratio = drawn(transform("brightness", factor=(0.5, 0.9)), image, np.zeros((8, 8)))[0] / image
    of_channel = ratio.mean(axis=(0, 1))
    assert np.allclose(ratio, of_channel, rtol=1e-5)
    assert len(set(of_channel.round(4))) == 3
    assert (of_channel > 0.49).all()
    assert (of_channel < 0.91).all()


def test_contrast_stretches_about_the_mean_and_stays_in_the_range() -> None:
    image = np.array([0, 1, 2, 9], np.float32).reshape(4, 1, 1)  # mean 3
    softened = drawn(transform("contrast", factor=(0.5, 0.5)), image, np.zeros((4, 1)))[0]
    assert softened.ravel() == pytest.approx([1.5, 2, 2.5, 6])
    sharpened = drawn(transform("contrast", factor=(2, 2)), image, np.zeros((4, 1)))[0]
    assert sharpened.ravel() == pytest.approx([0, 0, 1, 9])  # -3, -1, 1, 15 cut off


def test_gamma_by_hand_keeps_mean_and_standard_deviation() -> None:
    image = np.array([-1, 0, 1], np.float32).reshape(3, 1, 1)
    changed = drawn(transform("gamma", gamma=(2, 2)), image, np.zeros((3, 1)))[0].ravel()
    # ((x + 1) / 2)^2 2 - 1 = -1, -0.5, 1: mean -1/6, standard deviation sqrt(13/18); wanted 0 and sqrt(2/3)
    scale = np.sqrt((2 / 3) / (13 / 18))
    assert changed == pytest.approx([scale * (-1 + 1 / 6), scale * (-0.5 + 1 / 6), scale * (1 + 1 / 6)], abs=1e-5)
    inverted = drawn(transform("gamma", gamma=(2, 2), invert=True), image, np.zeros((3, 1)))[0].ravel()
    assert inverted == pytest.approx(-changed[::-1], abs=1e-5)


def test_a_channel_of_one_value_stays_as_it_is() -> None:
    image = np.full((4, 4, 1), 3, np.float32)
    for name in ("contrast", "gamma"):
        assert drawn(transform(name), image, np.zeros((4, 4)))[0] == pytest.approx(3)


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("power", [0.7, 1.5])
def test_gamma_is_that_of_monai(power: float, invert: bool) -> None:
    monai = pytest.importorskip("monai.transforms", reason="needs MONAI (requirements/peers.txt)")
    image = image_of((20, 20, 1))
    theirs = monai.AdjustContrast(gamma=power, invert_image=invert, retain_stats=True)(image[None, ..., 0])
    ours = drawn(transform("gamma", gamma=(power, power), invert=invert), image, np.zeros((20, 20)))[0]
    assert ours[..., 0] == pytest.approx(np.asarray(theirs)[0], abs=2e-5)


def test_factors_lie_below_and_above_one_equally_often() -> None:
    factors = draw_factors((0.5, 3), 2000, np.random.default_rng(0))
    assert 0.5 <= factors.min() < 0.51
    assert 2.98 < factors.max() <= 3
    assert 900 < (factors < 1).sum() < 1100  # four standard deviations are 89
    assert draw_factors((0.7, 0.7), 3, np.random.default_rng(0)) == pytest.approx(0.7)
    assert draw_factors((1.5, 1.5), 3, np.random.default_rng(0)) == pytest.approx(1.5)


def test_a_probability_leaves_the_others_as_they_are() -> None:
    image, labels = image_of((4, 4, 1)), np.zeros((4, 4))
    bright = transform("brightness", probability=0.25, factor=(2, 2))
    changed = [drawn(bright, image, labels, seed)[0] is not image for seed in range(400)]
    assert 60 < sum(changed) < 140  # 100; a standard deviation is 9
