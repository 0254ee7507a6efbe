from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest

from mspipeline.losses import Loss, bce_dice, make_loss
from mspipeline.training.pass_totals import PassTotals

TRUTH = np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], np.float32)
LOGITS = np.array([[2.0, 1.0, -1.0, -3.0], [-2.0, -3.0, 0.5, -4.0], [-5.0, -5.0, -5.0, -5.0]])
PROBABILITY = (1 / (1 + np.exp(-LOGITS))).astype(np.float32)


def passed(loss: Loss, batches: list[slice]) -> PassTotals:
    totals = PassTotals(loss, 0.5)
    for each in batches:
        totals.add(TRUTH[each], PROBABILITY[each], bce_dice(TRUTH[each], LOGITS[each]))
    return totals


def test_the_loss_of_a_pass_is_that_of_all_its_images_as_one_batch() -> None:
    one_by_one = passed(make_loss("bce_dice"), [slice(0, 1), slice(1, 2), slice(2, 3)])
    uneven = passed(make_loss("bce_dice"), [slice(0, 2), slice(2, 3)])
    assert one_by_one.loss == pytest.approx(bce_dice(TRUTH, LOGITS), rel=1e-6)
    assert uneven.loss == pytest.approx(bce_dice(TRUTH, LOGITS), rel=1e-6)


def test_a_network_that_finds_nothing_is_not_the_best_of_a_pass_of_mostly_empty_slices() -> None:
    """Nine of ten batches have no lesion; there the mean of the batches' losses prefers the empty prediction."""
    truth = np.zeros((10, 100), np.float32)
    truth[0, :20] = 1
    empty, found = np.zeros_like(truth), truth.copy()
    found[1:, 0] = 1  # and one wrong voxel in each slice without lesion

    def losses(prediction: np.ndarray) -> tuple[float, float]:
        totals, means = PassTotals(make_loss("dice"), 0.5), []
        for mask, p in zip(truth[:, None], prediction[:, None], strict=True):
            means.append(1 - (2 * (mask * p).sum() + 1) / (mask.sum() + p.sum() + 1))
            totals.add(mask, p, means[-1])
        return float(np.mean(means)), totals.loss

    assert losses(empty)[0] < losses(found)[0]
    assert losses(empty)[1] == pytest.approx(1 - 1 / 21)
    assert losses(found)[1] == pytest.approx(1 - 41 / 50)


def test_of_a_loss_that_is_a_mean_the_pass_has_the_mean_over_images() -> None:
    totals = PassTotals(make_loss("bce"), 0.5)
    totals.add(TRUTH[:2], PROBABILITY[:2], 0.5)
    totals.add(TRUTH[2:], PROBABILITY[2:], 0.2)
    assert totals.loss == pytest.approx((0.5 * 2 + 0.2) / 3)


def test_what_was_predicted_everywhere_is_of_the_whole_pass() -> None:
    totals = PassTotals(make_loss("bce"), 0.5)
    totals.add(TRUTH[1:], np.zeros((2, 4)), 0.1)
    assert (totals.everywhere, totals.lesions) == (None, False)
    totals.add(TRUTH[:1], np.full((1, 4), 0.4), 0.1)
    assert (totals.everywhere, totals.lesions) == ("nothing", True)
    totals.add(TRUTH[:1], np.full((1, 4), 0.5), 0.1)  # at the threshold a voxel counts as lesion
    assert totals.everywhere is None


def _given(joint: np.ndarray, own: np.ndarray) -> np.ndarray:
    """What the processes' own sums come to."""
    return joint


def test_two_processes_that_share_a_pass_have_the_loss_of_one() -> None:
    """Each adds its image of two batches of two; the loss of a batch and its sums are the joint ones."""
    batches = [[0, 1], [2, 0]]
    alone = PassTotals(make_loss("bce_dice"), 0.5)
    shares = [PassTotals(make_loss("bce_dice"), 0.5) for _ in range(2)]
    for batch in batches:
        truth, p, loss = TRUTH[batch], PROBABILITY[batch], bce_dice(TRUTH[batch], LOGITS[batch])
        alone.add(truth, p, loss)
        joint = np.array([(truth * p).sum(dtype=float), truth.sum(dtype=float), p.sum(dtype=float)])
        for rank, share in enumerate(shares):
            share.add(truth[[rank]], p[[rank]], loss, joint=partial(_given, joint))
    total = PassTotals(make_loss("bce_dice"), 0.5)
    documents = [share.to_json() for share in shares]
    total.restore({name: np.sum([each[name] for each in documents], axis=0).tolist() for name in documents[0]})
    assert total.loss == pytest.approx(alone.loss, rel=1e-12)
    assert total.to_json()["voxels"] == alone.to_json()["voxels"] == [4, 4, 5, 16]


def test_totals_go_on_from_their_json() -> None:
    alone, first = passed(make_loss("dice"), [slice(0, 2)]), passed(make_loss("dice"), [slice(0, 2)])
    again = PassTotals(make_loss("dice"), 0.5)
    again.restore(json.loads(json.dumps(first.to_json())))
    for each in (alone, again):
        each.add(TRUTH[2:], PROBABILITY[2:], 0.3)
    assert (again.loss, again.everywhere, again.to_json()) == (alone.loss, alone.everywhere, alone.to_json())
