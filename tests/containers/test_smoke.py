from dataclasses import replace

import numpy as np
import pytest

from mspipeline.backends.certification.evidence import read_evidence
from mspipeline.backends.registry import availability
from mspipeline.containers.smoke import REFERENCE, _engine, judge_engine, smoke_trial


@pytest.fixture(scope="module")
def reference():
    return read_evidence(REFERENCE)


def test_the_recorded_reference_is_of_the_trial_that_images_are_given(reference):
    trial = smoke_trial()
    assert reference.backend == "tensorflow"
    assert set(reference.activations) == set(trial.nodes)
    assert all(set(stepped) == set(trial.weights) for stepped in reference.stepped.values())
    assert set(reference.stepped) == {optimizer.name for optimizer in trial.optimizers}


@pytest.mark.parametrize("backend", ["tensorflow", "torch", "jax"])
def test_each_engine_is_certified_against_the_recorded_reference(backend):
    if problem := availability(backend).problem:
        pytest.skip(problem)
    found = _engine(backend)
    assert found.state == "ok", found
    assert "a training step, loss 0.745049" in found.detail


def test_an_engine_that_computes_something_else_is_told_where_it_parts(reference):
    activations = dict(reference.activations)
    activations["relu2"] = activations["relu2"] + np.float32(0.01)
    found = judge_engine(replace(reference, backend="torch", activations=activations), reference)
    assert (found.what, found.state) == ("backend torch", "broken")
    assert "forward differs from relu2 (Relu) on" in found.detail


def test_an_engine_that_does_not_learn_is_told(reference):
    weights = smoke_trial().weights
    stepped = dict.fromkeys(reference.stepped, weights)
    found = judge_engine(replace(reference, stepped=stepped), reference)
    assert (found.state, "weights unchanged" in found.detail) == ("broken", True)
    found = judge_engine(replace(reference, losses=(float("nan"), 1.0, 1.0)), reference)
    assert (found.state, "a training step gave loss nan" in found.detail) == ("broken", True)


def test_an_engine_that_dies_is_told_with_its_last_word():
    found = _engine("none")
    assert (found.state, "unknown backend 'none'" in found.detail) == ("broken", True)
