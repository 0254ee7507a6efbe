"""What augmentation does to a batch, against NumPy's own turns and flips."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from mspipeline.errors import ConfigError
from mspipeline.patches.augment import AUGMENTATIONS, MIRRORS, SYMMETRIES, Augmentation, augmentation, moved

PUBLISHED, RICH = AUGMENTATIONS["published"], AUGMENTATIONS["rich"]
Array = npt.NDArray[np.float32]


def batch(count: int = 40, size: tuple[int, int, int] = (3, 3, 3)) -> Array:
    """No two values of a patch are equal, and none is 0."""
    shape = (count, *size, 2)
    return (1 + np.random.default_rng(5).permutation(int(np.prod(shape)))).reshape(shape).astype(np.float32)


def published_forms(patch: Array) -> dict[str, Array]:
    """(X, Y, Z, C) -> what may become of it, by NumPy's names."""
    half_turn = np.rot90(patch, 2, axes=(1, 2))
    return {"kept": patch, "turned": half_turn, "mirrored": patch[:, :, ::-1], "both": half_turn[:, :, ::-1]}


def forms_of(images: Array, made: Array) -> list[str]:
    """Which form each patch took; fails where it is none of them."""
    return [
        next(name for name, form in published_forms(image).items() if np.array_equal(form, after))
        for image, after in zip(images, made, strict=True)
    ]


def apply(chosen: Augmentation | None, images: Array, seed: int = 0) -> Array:
    assert chosen is not None
    return chosen(images, np.random.default_rng(seed))


def test_half_of_a_batch_is_turned_mirrored_or_both_and_never_turned_by_a_quarter() -> None:
    images = batch()
    seen: list[str] = []
    for seed in range(10):
        forms = forms_of(images, apply(PUBLISHED, images, seed))
        assert forms.count("kept") == 20
        seen += forms
    assert {form for form in seen if form != "kept"} == {"turned", "mirrored", "both"}
    for form in ("turned", "mirrored", "both"):
        assert 40 <= seen.count(form) <= 95  # 200 drawn of three


def test_the_batch_that_is_given_is_not_changed_whatever_is_done() -> None:
    for name in AUGMENTATIONS:
        if name != "none":
            images = batch()
            apply(augmentation(name), images)
            assert np.array_equal(images, batch())


def test_what_is_made_shares_no_memory_with_what_was_given() -> None:
    images = batch()
    assert not np.shares_memory(apply(PUBLISHED, images), images)
    assert not np.shares_memory(apply(Augmentation(MIRRORS, share=0.0), images), images)


def test_equal_generators_make_equal_batches_and_others_do_not() -> None:
    images = batch()
    for chosen in (PUBLISHED, RICH):
        assert np.array_equal(apply(chosen, images, 7), apply(chosen, images, 7))
        assert not np.array_equal(apply(chosen, images, 7), apply(chosen, images, 8))


def test_a_cube_has_48_symmetries_8_of_them_without_a_turn_by_a_quarter() -> None:
    (image,) = batch(1)
    made = [moved(image[None], move)[0] for move in SYMMETRIES]
    assert len({form.tobytes() for form in made}) == 48
    turns = {form.tobytes() for form in made}
    for first, second in itertools.product(((0, 1), (0, 2), (1, 2)), repeat=2):
        assert np.rot90(np.rot90(image, 1, first), 3, second).tobytes() in turns
    flips = {np.flip(image, axes).tobytes() for n in range(4) for axes in itertools.combinations((0, 1, 2), n)}
    assert {moved(image[None], move)[0].tobytes() for move in MIRRORS} == flips


def test_moves_that_would_change_a_patch_s_shape_are_left_out() -> None:
    images = batch(400, (3, 3, 2))
    made = apply(AUGMENTATIONS["symmetries"], images)
    assert made.shape == images.shape
    plain = [{moved(image[None], move)[0].tobytes() for move in MIRRORS} for image in images]
    exchanged = [{moved(image[None], ((1, 0, 2), flips))[0].tobytes() for _, flips in MIRRORS} for image in images]
    found = [patch.tobytes() in one for patch, one in zip(made, plain, strict=True)]
    others = [patch.tobytes() in one for patch, one in zip(made, exchanged, strict=True)]
    assert all(a != b for a, b in zip(found, others, strict=True))
    assert 140 < sum(found) < 260  # of 400, half


def test_intensities_are_scaled_and_shifted_by_patch_and_channel_and_background_stays_0() -> None:
    images = batch(50)
    images[:, 0] = 0
    made = apply(Augmentation(MIRRORS[:1], scale=0.1, shift=0.2), images)
    assert not made[:, 0].any()
    scales = np.empty((50, 2))
    for patch, channel in itertools.product(range(50), range(2)):
        x, y = images[patch, 1:, ..., channel].ravel(), made[patch, 1:, ..., channel].ravel()
        scale, shift = np.polyfit(x.astype(np.float64), y.astype(np.float64), 1)
        assert np.allclose(scale * x + shift, y, rtol=1e-4)
        assert 0.899 < scale < 1.101
        scales[patch, channel] = scale
    assert len(np.unique(scales.round(6))) == 100
    assert scales.min() < 0.93
    assert scales.max() > 1.07
    assert made.dtype == np.float32


def test_a_wrong_name_is_answered_with_the_valid_ones() -> None:
    assert augmentation("none") is None
    with pytest.raises(ConfigError, match="rihc: no such augmentation; valid: none, published, mirrors"):
        augmentation("rihc")
