"""What a network is trained towards: the loss that fits its output."""

from __future__ import annotations

from mspipeline.config import TrainingSettings
from mspipeline.errors import ConfigError
from mspipeline.losses import LOSSES, Loss, make_loss


def loss_of(settings: TrainingSettings, classes: int) -> Loss:
    """The loss of a training. Raises ConfigError where the one asked for does not fit the number of classes."""
    fitting = [name for name, kind in LOSSES.items() if kind.offered(classes)]
    name = fitting[0] if settings.loss == "auto" else settings.loss
    if name not in fitting:
        raise ConfigError(
            f"loss {name} does not fit a network of {classes} output{'s' if classes > 1 else ''} a voxel or patch; "
            f"choose {' or '.join(fitting)}, or auto"
        )
    return make_loss(name)
