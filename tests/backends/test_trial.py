from __future__ import annotations

import math

import numpy as np
import pytest

from mspipeline.backends.certification.trial import (
    ADDED,
    SHAKE,
    choose_batch_size,
    choose_loss,
    make_trial,
    perturbed_weights,
    shaken,
    smallest_shape,
)
from mspipeline.losses import make_loss
from mspipeline.models.catalogue import build, entry
from mspipeline.network.ops import Dropout, Sigmoid


def test_equal_seeds_give_equal_trials_and_others_others() -> None:
    graph = build("unet2d", (32, 32, 1), {"base_width": 2})
    one, same, other = (make_trial(graph, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one.images, same.images)
    assert all(np.array_equal(one.weights[key], same.weights[key]) for key in one.weights)
    assert not np.array_equal(one.images, other.images)
    assert not np.array_equal(one.batches[0].images, one.batches[1].images)


def test_no_weight_is_left_at_a_constant() -> None:
    graph = build("nicms", (11, 11, 11, 2), {})
    weights = perturbed_weights(graph, 0)
    assert all(values.std() > 1e-4 for values in weights.values())
    assert all(values.min() > 0 for (_, name), values in weights.items() if name == "variance")


def test_dropout_is_switched_off() -> None:
    trial = make_trial(build("unet2d", (32, 32, 1), {"base_width": 2, "dropout": 0.5}), seed=0)
    assert {node.op.rate for node in trial.graph if isinstance(node.op, Dropout)} == {0.0}


@pytest.mark.parametrize(
    ("model", "shape", "arguments", "loss", "masks"),
    [
        ("unet2d", (32, 32, 1), {"base_width": 2}, "bce", (32, 32, 1)),
        ("cascade3d", (11, 11, 11, 3), {}, "categorical_ce", (2,)),
        ("cascade3d_report_eddl", (11, 11, 11, 3), {}, "bce", (1,)),
        ("nnunet3d", (16, 16, 16, 1), {"classes": 3}, "ce_dice", (16, 16, 16, 3)),
        ("deeplabv3", (33, 33, 1), {"base_width": 8}, "ce_dice", (3, 3, 2)),
    ],
)
def test_loss_and_masks_fit_what_the_network_gives(
    model: str, shape: tuple[int, ...], arguments: dict[str, int], loss: str, masks: tuple[int, ...]
) -> None:
    trial = make_trial(build(model, shape, arguments), seed=0)
    assert trial.loss.name == loss
    assert trial.masks.shape == (len(trial.images), *masks)
    assert set(np.unique(trial.masks)) == {0.0, 1.0}
    if masks[-1] > 1:
        assert np.all(trial.masks.sum(axis=-1) == 1)
    assert trial.images[trial.masks[..., 0] > 0].mean() > 1 if masks == shape else True


def test_every_head_of_deep_supervision_counts() -> None:
    graph = build("nnunet3d", (32, 32, 32, 1), {})
    assert choose_loss(graph) == make_loss("ce_dice", level_weights=(1.0, 0.5, 0.25)[: len(graph.outputs)])


def test_logits_of_a_patch_are_made_a_probability() -> None:
    trial = make_trial(build("cascade3d_report_eddl", (11, 11, 11, 3), {}), seed=0)
    assert trial.graph.outputs == (ADDED,)
    assert isinstance(trial.graph[ADDED].op, Sigmoid)


def test_a_normalisation_after_a_global_average_asks_for_more_images() -> None:
    assert choose_batch_size(build("unet2d", (32, 32, 1), {"base_width": 2})) == 2  # 2 x 2 voxels in the coarsest map
    assert choose_batch_size(build("double_unet", (48, 48, 1), {"base_width": 16})) == 8


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        ("unet2d", (48, 48, 1)),
        ("cascade3d", (11, 11, 11, 3)),
        ("nnunet3d", (16, 16, 16, 1)),
        ("deeplabv3", (32, 32, 1)),
    ],
)
def test_the_default_size_is_small_and_leaves_every_map_some_voxels(model: str, shape: tuple[int, ...]) -> None:
    assert smallest_shape(lambda size: build(model, size, {}), entry(model).example_shape) == shape


def test_shaking_changes_every_number_by_some_roundings() -> None:
    trial = make_trial(build("unet2d", (32, 32, 1), {"base_width": 2}), seed=0)
    other = shaken(trial)
    change = np.abs(other.images / trial.images - 1)
    assert change.max() <= SHAKE + 2**-23
    assert math.isclose(change.mean(), SHAKE / 2, rel_tol=0.1)
    assert all(not np.array_equal(other.weights[key], trial.weights[key]) for key in trial.weights)
