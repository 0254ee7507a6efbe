"""Which channel of a network's output means which label, and which label a voxel has by its probabilities.

Nobody else knows: training, inference and imported networks ask `channels_of`, and decide by `label_map`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mspipeline.errors import ShapeError
from mspipeline.labels import LESIONS, LabelMap, LabelSet
from mspipeline.network.graph import Graph
from mspipeline.network.ops import Shape, Sigmoid, Softmax

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Channels:
    """The channels of a network's output. names: the label that each one is the probability of."""

    labels: LabelSet
    names: tuple[str, ...]

    @property
    def decisive(self) -> tuple[str, ...]:
        """Labels whose probabilities decide: of a set of two the one that is not the background, else all channels."""
        return self.labels.foreground if len(self.labels.names) == 2 else self.names

    def probability(self, label: str, output: FloatArray) -> FloatArray:
        """(N, *spatial, channels) of a network -> (N, *spatial), the probability of a label.

        Raises ShapeError where the output has another number of channels.
        """
        if output.shape[-1] != len(self.names):
            raise ShapeError(f"an output of {output.shape[-1]} channels, expected {', '.join(self.names)}")
        return output[..., self.names.index(label)]

    def probabilities(self, output: FloatArray) -> dict[str, FloatArray]:
        """Those that decide, for `label_map`. Raises as `probability`."""
        return {name: self.probability(name, output) for name in self.decisive}

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


def label_map(labels: LabelSet, probabilities: Mapping[str, FloatArray], *, threshold: float) -> LabelMap:
    """The label of each voxel, as a mask has it.

    probabilities: label -> of it at each voxel, arrays of one shape; those of `Channels.decisive`.
    With that of the background, a softmax of several labels, the most probable label wins. Without, it is the most
    probable one of those that reach the threshold; where none does, the voxel is background. Of equally probable labels
    the first one wins.

    >>> label_map(LESIONS, {"lesion": np.array([0.4, 0.5], np.float32)}, threshold=0.5).tolist()
    [0, 1]
    """
    background = probabilities.get(labels.names[0])
    first, *others = probabilities.values()
    if not others:
        return (first >= np.float32(threshold)).view(np.uint8)
    best = np.full(first.shape, -np.inf, np.float32) if background is None else background
    found = np.zeros(first.shape, np.uint8)
    for name in labels.foreground:
        wins = probabilities[name] > best
        if background is None:
            wins &= probabilities[name] >= np.float32(threshold)
        found[wins] = labels.number(name)
        best = np.where(wins, probabilities[name], best)
    return found


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
    raise ShapeError(
        f"{graph.name}: gives {', '.join(map(str, shapes))} after {type(op).__name__}, expected probabilities of "
        f"{'a voxel' if spatial else 'a patch'}, {of_sigmoid} of a sigmoid or {of_softmax} of a softmax; "
        f"{_remedy(spatial, labels)}"
    )


def _remedy(spatial: Shape, labels: LabelSet) -> str:
    if not spatial:
        return "choose a network such as cascade3d or nicms"
    if len(labels.names) == 2:
        return "choose a network such as unet2d, double_unet, or deeplabv3 with full_size=true"
    classes = f"classes={len(labels.names)}"
    return (
        f"for the labels {', '.join(labels.names)} set {classes} (`--set {classes}`) of a network that has it, such as "
        "unet2d, or deeplabv3 with full_size=true"
    )
