"""Where a training is, what it belongs to, what it watches, and when it is over."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from mspipeline.config import TrainingSettings
from mspipeline.errors import RunFolderError
from mspipeline.runs import RunPaths
from mspipeline.training.collapse import Collapse, Predictions


@dataclass(frozen=True)
class RunIdentity:
    """What ties checkpoints and rows to one run."""

    run_id: str
    graph_hash: str
    config_hash: str
    restart_count: int


@dataclass(frozen=True)
class TrainingStage:
    """Which stage of a cascade is trained. epochs_before, rows_before: of the stages before it; epochs count on.

    collapse_before: of the first stage that ended collapsed, None where none did.
    """

    number: int
    epochs_before: int = 0
    rows_before: tuple[dict[str, Any], ...] = ()
    collapse_before: Collapse | None = None


@dataclass
class Progress:
    """Where a training is. epoch: the one under way, counted from 1 in each stage; step: optimizer steps done in it.

    predictions: of the finished epochs, which count through all stages there.
    """

    epoch: int = 1
    step: int = 0
    steps_total: int = 0
    seconds: float = 0.0
    best_epoch: int | None = None
    best_value: float | None = None
    epochs_without_improvement: int = 0
    scores: dict[str, Any] | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    predictions: Predictions = field(default_factory=Predictions)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """What `dataclasses.asdict` made of one."""
        return cls(**{**document, "predictions": Predictions(**document.get("predictions", {}))})


def is_over(progress: Progress, settings: TrainingSettings) -> bool:
    """Whether a training has come to its last epoch, or its patience to an end."""
    out_of_patience = 0 < settings.patience <= progress.epochs_without_improvement
    return progress.epoch > settings.epochs or out_of_patience


def checkpoint_paths(paths: RunPaths, stage: TrainingStage | None) -> tuple[Path, Path]:
    """Where the best and the last checkpoint of a training are."""
    if stage is None:
        return paths.best, paths.last
    return paths.stage(stage.number, "best"), paths.stage(stage.number, "last")


def monitor_of(settings: TrainingSettings, *, has_validation: bool, has_dice: bool) -> str:
    """What early stopping and the best checkpoint watch.

    has_dice: whether a Dice of the validation cases is defined whatever is predicted, that is, voxels are predicted and
    some case has a lesion. Raises RunFolderError where validation, or its Dice, is asked for and there is none.
    """
    if settings.monitor == "auto":
        if not has_validation:
            return "train_loss"
        return "validation_dice" if has_dice else "validation_loss"
    if settings.monitor.startswith("validation") and not has_validation:
        raise RunFolderError(
            f"monitor {settings.monitor!r} needs validation cases and the shards' split has none; "
            "use monitor = 'train_loss', or prepare more cases"
        )
    if settings.monitor == "validation_dice" and not has_dice:
        raise RunFolderError(
            "monitor 'validation_dice' needs a validation case with a lesion, and slices, not patches; "
            "use monitor = 'validation_loss'"
        )
    return settings.monitor


def monitored(monitor: str, rows: list[dict[str, Any]]) -> float:
    """The watched value of an epoch's rows."""
    subset, _, score = monitor.partition("_")
    return float(next(row[score] for row in rows if row["subset"] == subset))
