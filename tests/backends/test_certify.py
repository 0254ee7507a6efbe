"""Two backends compared: by hand-made arrays, and with real backends that are wrong in one node."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mspipeline.backends.certification.certify import (
    CEILING,
    MARGIN,
    TOLERANCE,
    Agreement,
    compare,
    describe,
    tolerances,
)
from mspipeline.backends.certification.evidence import Evidence, Sensitivity, kept_values, read_evidence, write_evidence
from mspipeline.backends.certification.node_errors import gradient_errors, loss_error, relative_error, statistics_errors
from mspipeline.backends.certification.trial import make_trial
from mspipeline.backends.registry import availability
from mspipeline.errors import DataError
from mspipeline.network.graph import Builder, Graph
from mspipeline.network.ops import BatchNorm, Conv, Input
from tests.backends.wrong_backend import FAULTS, small_graph, small_trial

PROGRAM = Path(__file__).parent / "wrong_backend.py"


def tiny_graph() -> Graph:
    builder = Builder("tiny")
    image = builder.add("image", Input((4, 4, 1)))
    conv = builder.add("conv", Conv(2, (1, 1), (1, 1), (1, 1), ((0, 0), (0, 0)), bias=True), image)
    return builder.graph(builder.add("norm", BatchNorm(0.9, 1e-5), conv))


def test_an_error_is_relative_to_the_norm() -> None:
    assert relative_error(np.array([3.0, 4.0]), np.array([3.0, 4.5])) == pytest.approx(0.1)
    assert relative_error(np.zeros(2), np.zeros(2)) == 0
    assert relative_error(np.zeros(2), np.array([0.0, 1e-9])) == math.inf
    assert relative_error(np.array([1e-9]), np.array([0.0]), floor=1e-6) == pytest.approx(1e-3)


@pytest.mark.parametrize("other", [np.zeros(3), np.array([np.nan, 1.0]), np.array([np.inf, 1.0])])
def test_what_is_missing_or_no_number_is_infinitely_wrong(other: np.ndarray) -> None:
    assert relative_error(np.ones(2), other) == math.inf


def test_a_gradient_that_jumps_in_one_batch_of_three_does_not_count_and_in_two_it_does() -> None:
    graph = tiny_graph()
    right = {key: np.ones(spec.shape, np.float32) for key, spec in graph.weights().items() if spec.trainable}
    jumped = {key: (2 * values if key[0] == "conv" else values) for key, values in right.items()}
    assert gradient_errors(graph, [right] * 3, [right, jumped, right]) == {"conv": 0.0, "norm": 0.0}
    assert gradient_errors(graph, [right] * 3, [jumped, jumped, right]) == {"conv": 1.0, "norm": 0.0}


def test_the_noise_of_a_bias_without_a_gradient_is_measured_by_its_kernels() -> None:
    graph = tiny_graph()
    right = {key: np.ones(spec.shape, np.float32) for key, spec in graph.weights().items() if spec.trainable}
    ours = right | {("conv", "bias"): np.full(2, 1e-8, np.float32)}
    theirs = right | {("conv", "bias"): np.full(2, -1e-8, np.float32)}
    assert gradient_errors(graph, [ours], [theirs])["conv"] == pytest.approx(2e-8, rel=1e-3)


def test_running_statistics_are_compared_by_what_a_step_added() -> None:
    graph = tiny_graph()
    before = {key: np.ones(spec.shape, np.float32) for key, spec in graph.weights().items()}
    ours = before | {("norm", "mean"): np.full(2, 1.5, np.float32)}
    theirs = before | {("norm", "mean"): np.full(2, 1.25, np.float32)}
    assert statistics_errors(graph, before, ours, theirs) == {"norm": 0.5}


def test_losses_are_compared_in_units_of_one_or_of_themselves() -> None:
    assert loss_error([0.1, 0.5], [0.1, 0.75]) == 0.25
    assert loss_error([4.0], [6.0]) == 0.5
    assert loss_error([1.0], [math.nan]) == math.inf


def test_a_tolerance_follows_the_shaken_reference_up_to_a_ceiling() -> None:
    allowed = tolerances("gradient", {"calm": 0.0, "middle": 0.02, "wild": 0.5})
    assert allowed == {"calm": MARGIN * 0.02, "middle": MARGIN * 0.02, "wild": CEILING}
    assert tolerances("gradient", {"calm": 1e-9}) == {"calm": TOLERANCE["gradient"]}


def evidence_of_a_step(gradient: np.ndarray, step: np.ndarray, optimizer: str = "adam") -> Evidence:
    """Of `tiny_trial`'s kernel; all else is the same in every one."""
    trial = replace(small_trial(), graph=tiny_graph())
    weights = {key: np.ones(spec.shape, np.float32) for key, spec in trial.graph.weights().items()}
    trained = {key: np.zeros_like(values) for key, values in weights.items() if trial.graph.weights()[key].trainable}
    slopes = trained | {("conv", "kernel"): gradient.reshape(1, 1, 1, 2).astype(np.float32)}
    stepped = weights | {("conv", "kernel"): (1 + step).reshape(1, 1, 1, 2).astype(np.float32)}
    activations = {name: np.ones(4, np.float32) for name in ("conv", "norm")}
    return Evidence(
        "any", "CPU", {}, activations, (0.5,), (slopes,), {optimizer: stepped}, Sensitivity(0.0, {"conv": 0, "norm": 0})
    )


def judged(ours: Evidence, theirs: Evidence) -> dict[str, Agreement]:
    weights = {key: np.ones(spec.shape, np.float32) for key, spec in tiny_graph().weights().items()}
    trial = replace(small_trial(), graph=tiny_graph(), weights=weights)
    trial = replace(trial, optimizers=trial.optimizers[:1])
    return {found.quantity: found for found in compare(trial, ours, theirs)}


def test_a_step_whose_gradient_is_rounding_is_left_out_and_counted() -> None:
    """Adam's first step is the gradient's sign: 1e-4 is nearer to zero than 5 tolerances, as the 6 zeros are."""
    ours = evidence_of_a_step(np.array([1.0, 1e-4]), np.array([-0.01, -0.01]))
    theirs = evidence_of_a_step(np.array([1.0, -1e-4]), np.array([-0.01, 0.01]))
    found = judged(ours, theirs)["step_adam"]
    assert (found.agrees, found.left_out, found.of) == (True, 7, 8)


def test_another_rule_of_stepping_shows() -> None:
    ours = evidence_of_a_step(np.array([1.0, 0.5]), np.array([-0.01, -0.01]))
    theirs = evidence_of_a_step(np.array([1.0, 0.5]), np.array([-0.01, -0.0099]))
    found = judged(ours, theirs)["step_adam"]
    assert (found.begins, found.worst) == ("conv", "conv")
    assert found.error == pytest.approx(0.01 / math.sqrt(2), rel=1e-2)


def sgd_step(gradient: float, *, nesterov: bool = True, weight_decay: float = 0.1) -> float:
    """From a weight of 1, at the trial's rate of 1 and momentum of 0.9."""
    return -(gradient + weight_decay) * (1.9 if nesterov else 1.0)


def test_of_sgd_every_number_is_compared_and_its_decay_and_momentum_show() -> None:
    """A gradient near zero moves weights by its own size: nothing is left out."""
    optimizer = make_trial(small_graph(), seed=0, optimizers=("sgd",)).optimizers
    slopes = np.array([1.0, 1e-4])
    right, plain, undecayed = (
        evidence_of_a_step(slopes, np.array([sgd_step(each, **kind) for each in slopes]), "sgd")
        for kind in ({}, {"nesterov": False}, {"weight_decay": 0.0})
    )
    weights = {key: np.ones(spec.shape, np.float32) for key, spec in tiny_graph().weights().items()}
    for key, spec in tiny_graph().weights().items():
        if spec.trainable and key != ("conv", "kernel"):
            for each in (right, plain, undecayed):
                each.stepped["sgd"][key] = np.full(spec.shape, 1 + sgd_step(0.0), np.float32)
    trial = replace(small_trial(), graph=tiny_graph(), weights=weights, optimizers=optimizer)
    found = {other: compare(trial, right, each)[-1] for other, each in (("plain", plain), ("undecayed", undecayed))}
    assert compare(trial, right, right)[-1].agrees
    assert all((each.quantity, each.left_out, each.of) == ("step_sgd", 0, 8) for each in found.values())
    assert found["plain"].error == pytest.approx(0.9 / 1.9, rel=0.02)
    assert not found["undecayed"].agrees


def test_evidence_comes_back_as_it_was_written(tmp_path: Path) -> None:
    ours = evidence_of_a_step(np.array([1.0, 0.5]), np.array([-0.01, -0.01]))
    write_evidence(tmp_path / "ours.npz", ours)
    back = read_evidence(tmp_path / "ours.npz")
    assert (back.losses, back.sensitivity, back.backend) == (ours.losses, ours.sensitivity, "any")
    assert all(np.array_equal(back.gradients[0][key], ours.gradients[0][key]) for key in ours.gradients[0])
    assert all(found.error == 0 for found in judged(ours, back).values())
    (tmp_path / "ours.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match="not a backend's evidence"):
        read_evidence(tmp_path / "ours.npz")


def test_of_a_large_map_a_value_from_every_stretch_is_kept_in_all_columns() -> None:
    kept = kept_values(2**22)
    assert isinstance(kept, np.ndarray)
    assert len(kept) == 2**18
    assert np.array_equal(kept // 16, np.arange(2**18))
    assert len(set(kept % 16)) == 16


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Evidence]:
    """What TensorFlow makes of a small network, right and with each fault; it runs in a process of its own."""
    if problem := availability("tensorflow").problem:
        pytest.skip(problem)
    folder = tmp_path_factory.mktemp("evidence")
    command = [sys.executable, "-W", "ignore", str(PROGRAM), "evidence", "tensorflow", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {fault: read_evidence(folder / f"{fault}.npz") for fault in FAULTS}


@pytest.mark.slow
def test_a_backend_agrees_with_itself(wrong: dict[str, Evidence]) -> None:
    found = compare(small_trial(), wrong["none"], wrong["none"])
    assert [each.quantity for each in found] == [
        *("forward", "statistics", "loss", "gradient"),
        *("step_adam", "step_sgd", "step_adadelta"),
    ]
    assert all(each.agrees and each.error == 0 for each in found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "factor"), [("epsilon", 10), ("padding", 1e4), ("interpolation", 1e3), ("corners", 1e3)]
)
def test_a_wrong_argument_differs_from_its_node_on(wrong: dict[str, Evidence], fault: str, factor: float) -> None:
    """factor: how many tolerances its error is, at least."""
    trial, node = small_trial(), FAULTS[fault][0]
    found = compare(trial, wrong["none"], wrong[fault])
    forward = found[0]
    assert (forward.quantity, forward.begins) == ("forward", node)
    assert forward.error > factor * forward.tolerance
    assert f"forward differs from {node} ({type(trial.graph[node].op).__name__}) on" in describe(found, trial.graph)


@pytest.mark.slow
def test_a_wrong_momentum_shows_in_the_running_statistics_alone(wrong: dict[str, Evidence]) -> None:
    found = compare(small_trial(), wrong["none"], wrong["momentum"])
    assert [each.quantity for each in found if not each.agrees] == ["statistics"]
    assert found[1].begins == "norm1"
    assert found[1].error == pytest.approx(0.9, abs=0.01)  # 0.01 of the difference is added instead of 0.1


@pytest.mark.slow
def test_the_shaken_reference_stays_well_below_the_faults(wrong: dict[str, Evidence]) -> None:
    sensitivity = wrong["none"].sensitivity
    assert 0 < max(sensitivity.gradient.values()) < 0.1 * CEILING
    assert 0 < sensitivity.loss < TOLERANCE["loss"]
