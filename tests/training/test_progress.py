"""mspipeline.training.progress: what a training watches, and when it is over."""

from __future__ import annotations

import pytest

from mspipeline.config import TrainingSettings
from mspipeline.errors import RunFolderError
from mspipeline.training.progress import Progress, is_over, monitor_of, monitored


@pytest.mark.parametrize(
    ("asked", "validation", "dice", "monitor"),
    [
        ("auto", True, True, "validation_dice"),
        ("auto", True, False, "validation_loss"),
        ("auto", False, False, "train_loss"),
        ("validation_loss", True, True, "validation_loss"),
        ("train_loss", True, True, "train_loss"),
    ],
)
def test_auto_watches_the_validation_dice_where_there_is_one(
    asked: str, validation: bool, dice: bool, monitor: str
) -> None:
    settings = TrainingSettings.model_validate({"monitor": asked})
    assert monitor_of(settings, has_validation=validation, has_dice=dice) == monitor


def test_a_dice_of_validation_cases_without_lesions_cannot_be_watched() -> None:
    settings = TrainingSettings(monitor="validation_dice")
    with pytest.raises(RunFolderError, match=r"needs a validation case with a lesion.*use monitor = 'validation_loss'"):
        monitor_of(settings, has_validation=True, has_dice=False)


def test_validation_that_there_is_not_cannot_be_watched() -> None:
    settings = TrainingSettings(monitor="validation_loss")
    with pytest.raises(RunFolderError, match="needs validation cases and the shards' split has none"):
        monitor_of(settings, has_validation=False, has_dice=False)


def test_the_watched_value_is_of_its_subset() -> None:
    rows = [{"subset": "train", "loss": 0.5, "dice": 0.1}, {"subset": "validation", "loss": 0.25, "dice": 0.75}]
    assert [monitored(each, rows) for each in ("train_loss", "validation_loss", "validation_dice")] == [0.5, 0.25, 0.75]


@pytest.mark.parametrize(
    ("epoch", "without_improvement", "patience", "over"),
    [(4, 0, 0, False), (5, 0, 0, True), (4, 9, 0, False), (3, 1, 2, False), (3, 2, 2, True)],
)
def test_a_training_is_over_after_its_epochs_or_its_patience(
    epoch: int, without_improvement: int, patience: int, over: bool
) -> None:
    progress = Progress(epoch=epoch, epochs_without_improvement=without_improvement)
    assert is_over(progress, TrainingSettings(epochs=4, patience=patience)) is over


def test_progress_comes_back_from_a_checkpoint_of_before_predictions_were_kept() -> None:
    assert Progress.from_json({"epoch": 3, "step": 2}) == Progress(epoch=3, step=2)
