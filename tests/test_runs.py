"""What decides a run's name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mspipeline.config import ModelSettings, TrainingSettings, TrainJob
from mspipeline.runs import config_hash

DATA = SimpleNamespace(dataset_hash="d", split_hash="s", recipe_hash="r")


def hash_of(**training: Any) -> str:
    job = TrainJob(
        model=ModelSettings(name="unet2d"),
        shards=Path("x"),
        run_folder=Path("y"),
        training=TrainingSettings(**training),
    )
    return config_hash(job, DATA)


OF_BEFORE = {
    "d6a54ade81b9cff24a0711e3bd2e6dfeddccaccece1928a342bd15efd62d6c01": {},
    "b2f33986fa572d7413a1a8a8c61059777b996d1db6c3a65c5199b92904bd9231": {
        **{"epochs": 3, "learning_rate": 1e-2, "beta1": 0.8, "epsilon": 1e-3, "schedule": "poly", "clip_norm": 0},
        **{"loss": "dice", "batch_size": 4, "warmup_steps": 0, "cascade": {"stages": 1}},
    },
}


@pytest.mark.parametrize("expected", OF_BEFORE)
def test_runs_of_adam_have_the_hashes_that_they_had_when_there_was_nothing_else(expected: str) -> None:
    """Computed by the version before; a run that was stopped then goes on under its name."""
    assert hash_of(**OF_BEFORE[expected]) == expected


def test_a_default_that_is_given_makes_no_other_run() -> None:
    assert hash_of() == hash_of(optimizer="adam", learning_rate=1e-3, beta2=0.999, schedule="constant")
    assert hash_of(optimizer="sgd") == hash_of(optimizer="sgd", learning_rate=0.01, momentum=0.99, nesterov=True)
    assert hash_of(schedule="step") == hash_of(schedule="step", step_factor=0.1, step_epochs=30)


def test_every_setting_of_an_optimizer_or_schedule_makes_another() -> None:
    hashes = [
        hash_of(**each)
        for each in (
            {},
            {"optimizer": "sgd"},
            {"optimizer": "sgd", "momentum": 0.9},
            {"optimizer": "sgd", "nesterov": False},
            {"optimizer": "sgd", "weight_decay": 0.0},
            {"optimizer": "adadelta"},
            {"optimizer": "adadelta", "rho": 0.9},
            {"schedule": "step"},
            {"schedule": "step", "step_epochs": 2},
        )
    ]
    assert len(set(hashes)) == len(hashes)
