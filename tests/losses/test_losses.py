from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mspipeline import losses
from mspipeline.errors import ConfigError, ShapeError

MASK = np.array([1.0, 0.0, 1.0, 0.0])
PROBABILITY = np.array([0.8, 0.4, 0.1, 0.05])

# Two voxels of three classes: the truth is class 2, then class 0.
ONE_HOT = np.array([[[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]])
CLASSES = np.array([[[0.2, 0.3, 0.5], [0.7, 0.2, 0.1]]])

seeds = st.integers(0, 2**32 - 1)


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


def one_hot(rng: np.random.Generator, *shape: int, classes: int) -> np.ndarray:
    return np.eye(classes)[rng.integers(0, classes, shape)]


def differences(loss: Callable[[np.ndarray], float], at: np.ndarray) -> np.ndarray:
    """Central differences of a loss by every value of `at`."""
    step = 1e-6
    numeric = np.empty(at.shape)
    for index in np.ndindex(at.shape):
        up, down = at.copy(), at.copy()
        up[index] += step
        down[index] -= step
        numeric[index] = (loss(up) - loss(down)) / (2 * step)
    return numeric


def test_bce_by_hand() -> None:
    expected = -(np.log(0.8) + np.log(0.6) + np.log(0.1) + np.log(0.95)) / 4
    assert losses.bce(MASK, PROBABILITY) == pytest.approx(expected)


def test_bce_of_a_sure_mistake_is_finite() -> None:
    assert losses.bce(np.array([1.0]), np.array([0.0])) == pytest.approx(-np.log(1e-7))


def test_dice_by_hand() -> None:
    # overlap 0.9, masks 2, probabilities 1.35, smooth 1
    assert losses.dice(MASK, PROBABILITY) == pytest.approx(1 - 2.8 / 4.35)


def test_dice_of_nothing_found_in_nothing_is_zero() -> None:
    assert losses.dice(np.zeros(4), np.zeros(4)) == 0


def test_weighted_ce_of_one_probability_by_hand() -> None:
    expected = -(0.95 * np.log(0.8) + 0.05 * np.log(0.6) + 0.95 * np.log(0.1) + 0.05 * np.log(0.95)) / 4
    assert losses.weighted_ce(MASK[:, None], PROBABILITY[:, None], (0.05, 0.95)) == pytest.approx(expected)


def test_weighted_ce_of_classes_by_hand() -> None:
    expected = -(0.7 * np.log(0.5) + 0.1 * np.log(0.7)) / 2
    assert losses.weighted_ce(ONE_HOT, CLASSES, (0.1, 0.2, 0.7)) == pytest.approx(expected)


@given(seeds)
def test_weighted_ce_of_one_probability_is_that_of_two_classes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask, p = rng.integers(0, 2, (3, 4, 1)).astype(float), rng.uniform(0, 1, (3, 4, 1))
    two = losses.weighted_ce(np.concatenate([1 - mask, mask], -1), np.concatenate([1 - p, p], -1), (0.05, 0.95))
    assert losses.weighted_ce(mask, p, (0.05, 0.95)) == pytest.approx(two)


def test_weights_of_one_give_the_unweighted_losses() -> None:
    assert losses.weighted_ce(MASK[:, None], PROBABILITY[:, None], (1, 1)) == losses.bce(MASK, PROBABILITY)
    assert losses.weighted_ce(ONE_HOT, CLASSES, (1, 1, 1)) == losses.categorical_ce(ONE_HOT, CLASSES)


def test_categorical_ce_by_hand_is_the_mean_over_voxels() -> None:
    assert losses.categorical_ce(ONE_HOT, CLASSES) == pytest.approx(-(np.log(0.5) + np.log(0.7)) / 2)
    assert losses.categorical_ce(ONE_HOT[0], CLASSES[0]) == losses.categorical_ce(ONE_HOT, CLASSES)  # two patches


def test_sure_mistakes_of_classes_are_finite() -> None:
    wrong = np.array([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    assert losses.categorical_ce(ONE_HOT, wrong) == pytest.approx(-np.log(1e-7))
    assert losses.weighted_ce(ONE_HOT, wrong, (0.1, 0.2, 0.7)) == pytest.approx(-0.4 * np.log(1e-7))


def test_ce_dice_by_hand() -> None:
    # One image of two voxels; Dice of class 1: nothing true, 0.5 found; of class 2: overlap 0.5, sizes 1 + 0.6.
    dice = (1e-5 / (0.5 + 1e-5) + (2 * 0.5 + 1e-5) / (1.6 + 1e-5)) / 2
    expected = -(np.log(0.5) + np.log(0.7)) / 2 - dice
    assert losses.ce_dice(ONE_HOT, [np.log(CLASSES)]) == pytest.approx(expected)


def test_batch_dice_sums_over_the_images_first() -> None:
    # Two images of one voxel each, the truth is class 1 in the first; found: 0.8 and 0.4.
    mask, p = np.array([[[0.0, 1.0]], [[1.0, 0.0]]]), np.array([[[0.2, 0.8]], [[0.6, 0.4]]])
    cross_entropy = -(np.log(0.8) + np.log(0.6)) / 2
    apart = ((1.6 + 1e-5) / (1.8 + 1e-5) + 1e-5 / (0.4 + 1e-5)) / 2
    together = (1.6 + 1e-5) / (2.2 + 1e-5)
    assert losses.ce_dice(mask, [np.log(p)]) == pytest.approx(cross_entropy - apart)
    assert losses.ce_dice(mask, [np.log(p)], batch_dice=True) == pytest.approx(cross_entropy - together)


def test_ce_dice_of_sure_and_right_logits_is_minus_one() -> None:
    both = np.array([[[0.0, 1.0], [1.0, 0.0]]])
    assert losses.ce_dice(both, [1e4 * both]) == pytest.approx(-1)


def test_a_class_that_is_neither_there_nor_found_has_dice_one() -> None:
    mask = np.array([[[1.0, 0.0]]])
    assert losses.ce_dice(mask, [np.array([[[1e4, 0.0]]])]) == -1


def test_a_coarse_head_meets_the_mask_at_every_nth_voxel() -> None:
    mask = one_hot(np.random.default_rng(0), 1, 4, 6, classes=2)
    coarse = np.random.default_rng(1).standard_normal((1, 2, 2, 2))
    fine = np.zeros((1, 4, 6, 2))
    kept = np.stack([[mask[0, 0, 0], mask[0, 0, 3]], [mask[0, 2, 0], mask[0, 2, 3]]])[None]
    expected = 0.75 * losses.ce_dice(mask, [fine]) + 0.25 * losses.ce_dice(kept, [coarse])
    assert losses.ce_dice(mask, [fine, coarse], (0.75, 0.25)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("heads", "expected"),
    [(1, [1]), (2, [1, 0]), (3, [2 / 3, 1 / 3, 0]), (5, [8 / 15, 4 / 15, 2 / 15, 1 / 15, 0])],
)
def test_deep_supervision_halves_and_leaves_the_lowest_head_out(heads: int, expected: list[float]) -> None:
    assert losses.deep_supervision_weights(heads) == pytest.approx(expected)


@pytest.mark.parametrize("extreme", [1e4, 1e30])
def test_ce_dice_of_extreme_logits_is_finite(extreme: float) -> None:
    logits = np.array([[[extreme, 0, -extreme], [-extreme, extreme, 0]]], np.float32)
    mask = ONE_HOT.astype(np.float32)
    assert losses.ce_dice(mask, [logits]) == pytest.approx(2 * extreme, rel=1e-3)
    (gradient,) = losses.ce_dice_gradient(mask, [logits])
    assert np.allclose(gradient, [[[0.5, 0, -0.5], [-0.5, 0.5, 0]]])


@pytest.mark.parametrize("name", ["bce", "dice"])
def test_gradients_agree_with_finite_differences(name: str) -> None:
    loss, gradient = getattr(losses, name), getattr(losses, f"{name}_gradient")
    numeric = differences(lambda p: loss(MASK, p), PROBABILITY)
    assert np.allclose(gradient(MASK, PROBABILITY), numeric, rtol=1e-6)


@given(seeds, st.integers(1, 4))
def test_the_weighted_gradient_agrees_with_finite_differences(seed: int, channels: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.05, 2, max(2, channels)).tolist()
    p = rng.uniform(0.02, 0.98, (2, 3, channels))
    mask = one_hot(rng, 2, 3, classes=channels) if channels > 1 else rng.integers(0, 2, (2, 3, 1)).astype(float)
    numeric = differences(lambda p: losses.weighted_ce(mask, p, weights), p)
    assert np.allclose(losses.weighted_ce_gradient(mask, p, weights), numeric, rtol=1e-5, atol=1e-8)


@given(seeds, st.integers(2, 4))
def test_the_categorical_gradient_agrees_with_finite_differences(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    p, mask = rng.uniform(0.02, 0.98, (2, 3, classes)), one_hot(rng, 2, 3, classes=classes)
    numeric = differences(lambda p: losses.categorical_ce(mask, p), p)
    assert np.allclose(losses.categorical_ce_gradient(mask, p), numeric, rtol=1e-5, atol=1e-8)


@settings(deadline=None)
@given(seeds, st.integers(2, 3), st.booleans())
def test_the_gradients_of_every_head_agree_with_finite_differences(seed: int, classes: int, batch_dice: bool) -> None:
    rng = np.random.default_rng(seed)
    mask = one_hot(rng, 2, 4, 2, classes=classes)
    heads = [rng.normal(0, 2, (2, *size, classes)) for size in ((4, 2), (2, 1), (1, 1))]
    weights = (0.5, 0.3, 0.2)
    gradients = losses.ce_dice_gradient(mask, heads, weights, batch_dice=batch_dice)
    for place, head in enumerate(heads):

        def loss(logits: np.ndarray, place: int = place) -> float:
            changed = [*heads[:place], logits, *heads[place + 1 :]]
            return losses.ce_dice(mask, changed, weights, batch_dice=batch_dice)

        assert np.allclose(gradients[place], differences(loss, head), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["weighted_ce", "categorical_ce"])
def test_a_clipped_probability_has_no_gradient(name: str) -> None:
    p = np.array([[[0.2, 0.3, 0.0], [1.0, 0.2, 0.1]]])
    arguments = ([0.1, 0.2, 0.7],) if name == "weighted_ce" else ()
    assert not getattr(losses, f"{name}_gradient")(ONE_HOT, p, *arguments).any()


def test_weights_of_another_number_are_refused() -> None:
    with pytest.raises(ShapeError, match="3 class weights for 2 classes"):
        losses.weighted_ce(MASK[:, None], PROBABILITY[:, None], (1, 2, 3))
    with pytest.raises(ShapeError, match="1 level weights for 2 heads"):
        losses.ce_dice(ONE_HOT, [CLASSES, CLASSES])


def test_a_head_of_no_whole_fraction_is_refused() -> None:
    with pytest.raises(ShapeError, match="not a whole number of times as coarse"):
        losses.ce_dice(np.zeros((1, 4, 4, 2)), [np.zeros((1, 4, 3, 2))])


LOGITS = np.array([2.0, -1.0, 0.0, -3.0])


def test_bce_dice_by_hand() -> None:
    # Probabilities 0.880797, 0.268941, 0.5, 0.047426 of truths 1, 0, 1, 0.
    cross_entropy = (0.126928 + 0.313262 + 0.693147 + 0.048587) / 4
    overlap, found = 0.880797 + 0.5, 0.880797 + 0.268941 + 0.5 + 0.047426
    dice = 1 - (2 * overlap + 1) / (2 + found + 1)
    assert losses.bce_dice(MASK, LOGITS) == pytest.approx(cross_entropy + dice, abs=1e-6)


def test_bce_dice_is_bce_plus_dice_of_the_probabilities() -> None:
    p = 1 / (1 + np.exp(-LOGITS))
    assert losses.bce_dice(MASK, LOGITS) == pytest.approx(losses.bce(MASK, p) + losses.dice(MASK, p), rel=1e-12)


def test_the_gradient_of_bce_dice_agrees_with_finite_differences() -> None:
    numeric = differences(lambda z: losses.bce_dice(MASK, z), LOGITS)
    assert np.allclose(losses.bce_dice_gradient(MASK, LOGITS), numeric, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bce_dice_of_sure_logits_is_finite_and_a_sure_mistake_keeps_its_gradient(dtype: type) -> None:
    mask: np.ndarray = np.array([1, 0, 1, 0]).astype(dtype)
    right, wrong = 200 * mask - 100, 100 - 200 * mask
    assert losses.bce_dice(mask, right) == pytest.approx(0, abs=1e-6)
    assert losses.bce_dice(mask, wrong) == pytest.approx(100 + 1 - 1 / 5)  # overlap 0, truth 2, found 2
    assert np.allclose(losses.bce_dice_gradient(mask, wrong), [-0.25, 0.25, -0.25, 0.25])
    assert np.allclose(losses.bce_dice_gradient(mask, right), 0)


def test_an_empty_prediction_is_the_worst_of_a_batch_with_a_lesion_and_the_best_of_none() -> None:
    """64 voxels, 4 of lesion: of the predictions that take so many true and false voxels for lesion."""
    mask = np.zeros(64)
    mask[:4] = 1

    def loss(true: int, false: int) -> float:
        logits = np.full(64, -6.0)
        logits[:true], logits[60 : 60 + false] = 6.0, 6.0
        return losses.bce_dice(mask, logits)

    assert loss(4, 0) < loss(2, 0) < loss(1, 1) < loss(0, 0) < loss(0, 4)
    assert losses.bce_dice(np.zeros(64), np.full(64, -20.0)) == pytest.approx(0, abs=1e-6)


def test_dice_of_sums_is_that_of_the_voxels() -> None:
    assert losses.dice_of_sums(0.9, 2.0, 1.35) == pytest.approx(1 - 2.8 / 4.35)


@pytest.mark.parametrize(
    ("loss", "mask", "outputs"),
    [
        (losses.make_loss("bce"), MASK, [PROBABILITY]),
        (losses.make_loss("dice"), MASK, [PROBABILITY]),
        (losses.make_loss("bce_dice"), MASK, [LOGITS]),
        (losses.make_loss("weighted_ce", class_weights=(0.1, 0.2, 0.7)), ONE_HOT, [CLASSES]),
        (losses.make_loss("categorical_ce"), ONE_HOT, [CLASSES]),
        (losses.make_loss("ce_dice", batch_dice=True), ONE_HOT, [np.log(CLASSES)]),
    ],
    ids=lambda value: value.name if isinstance(value, losses.Loss) else "",
)
def test_by_its_name_each_loss_has_its_value_and_the_slope_of_it(
    loss: losses.Loss, mask: np.ndarray, outputs: list[np.ndarray]
) -> None:
    value, (gradient,) = loss.of_arrays(mask, outputs), loss.gradients(mask, outputs)
    slope = differences(lambda each: loss.of_arrays(mask, [each]), outputs[0])
    assert value > -1
    assert np.allclose(gradient, slope, rtol=1e-5, atol=1e-8)


def test_bce_dice_takes_one_probability_of_one_output() -> None:
    losses.make_loss("bce_dice").check([(4, 4, 1)])
    with pytest.raises(ConfigError, match="one probability a voxel, the output has 2 channels"):
        losses.make_loss("bce_dice").check([(4, 4, 2)])


def test_the_table_names_every_loss_by_its_own_name() -> None:
    assert all(kind.name == name for name, kind in losses.LOSSES.built_in.items())
    offered = {
        classes: [name for name, kind in losses.LOSSES.built_in.items() if kind.offered(classes)] for classes in (1, 3)
    }
    assert offered == {1: ["bce_dice", "bce", "dice"], 3: ["categorical_ce"]}
    with pytest.raises(ConfigError, match="unknown loss 'dise'; did you mean 'dice'"):
        losses.make_loss("dise")
