from __future__ import annotations

import pytest

from mspipeline.config import TrainingSettings
from mspipeline.errors import ConfigError
from mspipeline.training.targets import loss_of


def test_auto_is_the_loss_that_fits_and_another_is_refused() -> None:
    assert loss_of(TrainingSettings(), 1).name == "bce_dice"
    assert loss_of(TrainingSettings(), 2).name == "categorical_ce"
    assert loss_of(TrainingSettings(loss="dice"), 1).name == "dice"
    with pytest.raises(ConfigError, match="loss bce does not fit a network of 2 outputs a voxel or patch"):
        loss_of(TrainingSettings(loss="bce"), 2)
