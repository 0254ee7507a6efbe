"""What a network is trained towards: the loss that fits its output."""

from __future__ import annotations

from mspipeline.config import TrainingSettings
from mspipeline.errors import ConfigError
from mspipeline.losses import LOSSES, Loss, make_loss


def loss_of(settings: TrainingSettings, classes: int) -> Loss:
    """The loss of a training. Raises ConfigError where the one asked for does not fit the number of classes."""
    if settings.loss == "auto":
        return make_loss(next(name for name, kind in LOSSES.built_in.items() if kind.offered(classes)))
    if not LOSSES[settings.loss].offered(classes):
        fitting = [name for name, kind in LOSSES.working().items() if kind.offered(classes)]
        raise ConfigError(
            f"loss {settings.loss} does not fit a network of {classes} output{'s' if classes > 1 else ''} a voxel or "
            f"patch; choose {' or '.join(fitting)}, or auto"
        )
    return make_loss(settings.loss)
