"""Labels: what a voxel of a mask can be, and which channel of a network's output means which label.

Nobody else knows: training, inference, imported networks and scores ask `channels_of`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.errors import ConfigError, ShapeError, ShardError
from mspipeline.network.graph import Graph
from mspipeline.network.ops import Shape, Sigmoid, Softmax

FloatArray = npt.NDArray[np.float32]

BACKGROUND = "background"
LESION = "lesion"


@dataclass(frozen=True)
class LabelSet:
    """The labels of a mask. names: a label's number in a mask is its place among them; the background is 0.

    Raises ConfigError where the background is not the first, a name stands twice, or there is nothing else.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.names[:1] != (BACKGROUND,) or len(self.names) < 2 or len(set(self.names)) < len(self.names):
            raise ConfigError(
                f"labels {', '.join(self.names) or '(none)'}: expected {BACKGROUND} first, then at least one label, "
                "each named once"
            )

    @property
    def foreground(self) -> tuple[str, ...]:
        """All but the background."""
        return self.names[1:]

    def number(self, name: str) -> int:
        """What stands in a mask for a label."""
        return self.names.index(name)

    def check(self, masks: npt.NDArray[Any], *, where: str) -> None:
        """Raise ShardError where a mask holds a number that is no label's. where: names the masks in the error."""
        known_voxels = masks == 0
        for number in range(1, len(self.names)):
            known_voxels |= masks == number
        if not known_voxels.all():
            strange = ~known_voxels
            values = ", ".join(f"{value:g}" for value in np.unique(masks[strange])[:5])
            known = ", ".join(f"{number} ({name})" for number, name in enumerate(self.names))
            raise ShardError(
                f"{where}: {int(strange.sum())} mask voxels hold {values}, expected {known}; "
                "delete the shards and prepare them again"
            )


LESIONS = LabelSet((BACKGROUND, LESION))
"""The labels of a lesion mask."""


@dataclass(frozen=True)
class Channels:
    """The channels of a network's output. names: the label that each one is the probability of."""

    labels: LabelSet
    names: tuple[str, ...]

    def probability(self, label: str, output: FloatArray) -> FloatArray:
        """(N, *spatial, channels) of a network -> (N, *spatial), the probability of a label.

        Raises ShapeError where the output has another number of channels.
        """
        if output.shape[-1] != len(self.names):
            raise ShapeError(f"an output of {output.shape[-1]} channels, expected {', '.join(self.names)}")
        return output[..., self.names.index(label)]

    def targets(self, masks: FloatArray) -> FloatArray:
        """Masks of label numbers, (N, *spatial, 1), as the output has them: 1.0 where a channel's label is, else 0.0.

        >>> Channels(LESIONS, LESIONS.names).targets(np.array([[0.0], [1.0]], np.float32)).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
        """
        if self.names == self.labels.foreground and len(self.names) == 1:
            return masks
        return np.concatenate([masks == self.labels.number(name) for name in self.names], axis=-1, dtype=np.float32)


ONE_PROBABILITY = Channels(LESIONS, LESIONS.foreground)
"""Of a network that ends in one sigmoid."""


def channels_of(graph: Graph, spatial: Shape, labels: LabelSet = LESIONS) -> Channels:
    """Which channel of a network's output means which label: of a sigmoid all labels but the background, in their
    order; of a softmax all labels, the background first.

    spatial: of a mask; () for patches, which have one label each.
    Raises ShapeError where the network gives anything but one such probability a channel at each place of a mask.
    """
    shapes = [graph[name].shape for name in graph.outputs]
    op = graph[graph.outputs[0]].op
    names = labels.names if isinstance(op, Softmax) else labels.foreground
    if isinstance(op, Sigmoid | Softmax) and shapes == [(*spatial, len(names))]:
        return Channels(labels, names)
    of_sigmoid, of_softmax = (*spatial, len(labels.foreground)), (*spatial, len(labels.names))
    other = "unet2d, double_unet, or deeplabv3 with full_size=true" if spatial else "cascade3d or nicms"
    raise ShapeError(
        f"{graph.name}: gives {', '.join(map(str, shapes))} after {type(op).__name__}, expected probabilities of "
        f"{'a voxel' if spatial else 'a patch'}, {of_sigmoid} of a sigmoid or {of_softmax} of a softmax; "
        f"choose a network such as {other}"
    )
