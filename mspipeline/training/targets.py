"""What a network is trained towards: the loss that fits its output, and masks in the form of that output."""

from __future__ import annotations

import numpy as np

from mspipeline.backends.base import FloatArray, Loss, LossName
from mspipeline.config import TrainingSettings
from mspipeline.errors import ConfigError, ShapeError
from mspipeline.network.graph import Graph
from mspipeline.network.ops import Shape, Sigmoid, Softmax


def classes_of(graph: Graph, spatial: Shape) -> int:
    """1 for one probability of lesion a voxel or patch, 2 for those of background and lesion.

    spatial: of a mask; () for patches, which have one label each.
    Raises ShapeError where the network gives something else.
    """
    given = [graph[name].shape for name in graph.outputs]
    op = graph[graph.outputs[0]].op
    if given == [(*spatial, 1)] and isinstance(op, Sigmoid):
        return 1
    if given == [(*spatial, 2)] and isinstance(op, Softmax):
        return 2
    what = f"probabilities of {'a voxel' if spatial else 'a patch'}"
    other = "unet2d or double_unet" if spatial else "cascade3d or nicms"
    raise ShapeError(
        f"{graph.name}: gives {', '.join(map(str, given))} after {type(op).__name__}, but training needs {what}, "
        f"{(*spatial, 1)} of a sigmoid or {(*spatial, 2)} of a softmax; choose a network such as {other}"
    )


def loss_of(settings: TrainingSettings, classes: int) -> Loss:
    """The loss of a training. Raises ConfigError where the one asked for does not fit the number of classes."""
    fitting: tuple[LossName, ...] = ("bce", "dice") if classes == 1 else ("categorical_ce",)
    name: LossName = fitting[0] if settings.loss == "auto" else settings.loss
    if name not in fitting:
        raise ConfigError(
            f"loss {name} does not fit a network of {classes} output{'s' if classes > 1 else ''} a voxel or patch; "
            f"choose {' or '.join(fitting)}, or auto"
        )
    return Loss(name)


def in_classes(masks: FloatArray, classes: int) -> FloatArray:
    """Masks as the output has it: (N, ..., 1) in {0, 1} as they are, or one-hot (N, ..., 2), background first."""
    return masks if classes == 1 else np.concatenate([1 - masks, masks], axis=-1)
