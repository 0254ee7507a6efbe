"""Trial: what every backend is given to show that its network is the same: weights, a batch, a loss, optimizers.

All of it follows from the graph, a seed and a batch size, in NumPy, so that backends in processes or images of their
own are given equal numbers.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mspipeline.backends.base import FloatArray
from mspipeline.errors import ShapeError
from mspipeline.losses import Loss, make_loss
from mspipeline.network.graph import Graph, Node, without_dropout
from mspipeline.network.ops import BatchNorm, Op, Shape, Sigmoid, Softmax
from mspipeline.network.weights import Weights, initial_weights
from mspipeline.optimizers import OPTIMIZERS, Optimizer, make_optimizer

ADDED = "added_probability"
"""Node that is added behind logits of a whole patch: the losses on them take probabilities."""
SHAKE = 2.0**-21
"""Largest relative change of a shaken value: 8 times float32's rounding, what some layers' roundings add up to."""
NORMALISED_VALUES = 8
"""Values a normalisation should take its statistics of: two become -1 and 1, whatever they are, without a gradient."""
MAP_VOXELS = 8
"""In the coarsest map: on fewer a kernel meets padding alone, whose faults do not show."""
EDGES = (16, 32, 48, 64, 96, 128)
BATCHES = 3
"""Of these the middle gradient error counts: a voxel that rounding puts on the other side of a ReLU's kink changes the
gradient of a coarse map by a hundredth or more, but it does so in one batch, where a fault does in every one."""
BATCH_SIZES = (2, 8)
"""Fewest and most images of a trial."""
STEPS: dict[str, dict[str, float]] = {
    "adam": {"learning_rate": 0.01},
    "sgd": {"learning_rate": 1.0, "momentum": 0.9, "weight_decay": 0.1},
    "adadelta": {"epsilon": 1e-6},
}
"""Settings of the step that is compared, so that it is 1e5 times float32's rounding of a weight near 1, and each
setting shows: Adam's is 0.01 long; SGD's gets 0.19 of the weight by its decay and momentum, whatever the gradient;
Adadelta's is sqrt(1e-6 / 0.05) = 0.004. An optimizer that is not named here steps by its defaults."""
_BLOBS = 3


@dataclass(frozen=True)
class TrialBatch:
    """images: (N, *spatial, C). masks: (N, *shape of the first output)."""

    images: FloatArray
    masks: FloatArray


@dataclass(frozen=True)
class Trial:
    """graph: as the network's own, without dropout. batches: the first for all quantities, the others for gradients.

    optimizers: of each of which one step is compared, from the same weights.
    """

    graph: Graph
    weights: Weights
    batches: tuple[TrialBatch, ...]
    loss: Loss
    optimizers: tuple[Optimizer, ...]

    @property
    def images(self) -> FloatArray:
        """Of the first batch."""
        return self.batches[0].images

    @property
    def masks(self) -> FloatArray:
        """Of the first batch."""
        return self.batches[0].masks

    @property
    def nodes(self) -> list[str]:
        """Whose activations are compared: all but what is fed."""
        fed = {node.name for node in self.graph.inputs}
        return [node.name for node in self.graph if node.name not in fed]


def make_trial(
    graph: Graph, *, seed: int, batch_size: int = 0, optimizers: Sequence[str] = tuple(OPTIMIZERS.built_in)
) -> Trial:
    """The trial of a graph. batch_size: 0 chooses one. Raises ShapeError for a graph of several inputs.

    Weights begin as training's do, but none is left at a constant that would hide a fault: a bias of 0, a scale of 1 or
    a running mean of 0 is the same whether or not it is used.
    """
    if len(graph.inputs) != 1:
        raise ShapeError(f"{graph.name}: has {len(graph.inputs)} inputs; only networks of one can be certified")
    tried = without_dropout(_with_probability(graph))
    count = batch_size or choose_batch_size(tried)
    return Trial(
        tried,
        perturbed_weights(tried, seed),
        tuple(_batch(tried, count, np.random.default_rng([seed, number])) for number in range(BATCHES)),
        choose_loss(tried),
        tuple(make_optimizer(name, STEPS.get(name, {})) for name in optimizers),
    )


def choose_batch_size(graph: Graph) -> int:
    """As many images as the smallest batch normalisation needs, within `BATCH_SIZES`."""
    voxels = [math.prod(node.shape[:-1]) for node in graph if isinstance(node.op, BatchNorm)]
    needed = math.ceil(NORMALISED_VALUES / min(voxels, default=NORMALISED_VALUES))
    return min(max(BATCH_SIZES[0], needed), BATCH_SIZES[1])


def smallest_shape(build: Callable[[tuple[int, ...]], Graph], example: tuple[int, ...]) -> tuple[int, ...]:
    """The smallest image of equal edges for which `build` gives a graph with `MAP_VOXELS` in each of its maps.

    Maps that have one voxel in the large `example`, too, are not counted: they are averages of whole images. Gives
    `example` for networks that take one size alone, and where it is small itself, as patches are.
    """
    if max(example[:-1]) <= EDGES[0]:
        return example
    averages = {node.name for node in build(example) if math.prod(node.shape[:-1]) == 1}
    for edge in EDGES:
        shape = (*(edge,) * (len(example) - 1), example[-1])
        try:
            maps = [node.shape[:-1] for node in build(shape) if len(node.shape) > 1 and node.name not in averages]
        except ShapeError:
            continue
        if min(math.prod(spatial) for spatial in maps) >= MAP_VOXELS:
            return shape
    return example


def choose_loss(graph: Graph) -> Loss:
    """bce for a sigmoid, categorical_ce for a softmax, ce_dice for maps of logits, each level counting half as much."""
    last = graph[graph.outputs[0]]
    if isinstance(last.op, Sigmoid):
        return make_loss("bce")
    if isinstance(last.op, Softmax):
        return make_loss("categorical_ce")
    return make_loss("ce_dice", level_weights=tuple(0.5**level for level in range(len(graph.outputs))))


def perturbed_weights(graph: Graph, seed: int) -> Weights:
    """Initial weights, those that begin at a constant spread around it: zeros +- 0.1, ones 0.5 to 1.5, and so on."""
    weights = initial_weights(graph, seed)
    for key, spec in graph.weights().items():
        generator = np.random.default_rng([seed, zlib.crc32("/".join(key).encode())])
        if spec.initial == "zeros":
            weights[key] = (0.1 * generator.standard_normal(spec.shape)).astype(np.float32)
        elif spec.initial in ("ones", "quarter"):
            weights[key] *= (0.5 + generator.random(spec.shape)).astype(np.float32)
    return weights


def shaken(trial: Trial) -> Trial:
    """The trial with every weight and every pixel changed by up to `SHAKE` of itself."""
    generator = np.random.default_rng(0)

    def shake(values: FloatArray) -> FloatArray:
        changed: FloatArray = values * (1 + SHAKE * (2 * generator.random(values.shape) - 1)).astype(np.float64)
        return changed.astype(np.float32)

    return replace(
        trial,
        weights={key: shake(values) for key, values in trial.weights.items()},
        batches=tuple(replace(batch, images=shake(batch.images)) for batch in trial.batches),
    )


def _with_probability(graph: Graph) -> Graph:
    """The graph, with the probability behind logits that stand for a whole patch."""
    last = graph[graph.outputs[0]]
    if len(graph.outputs) > 1 or len(last.shape) > 1 or isinstance(last.op, Sigmoid | Softmax):
        return graph
    op: Op = Softmax() if last.shape[-1] > 1 else Sigmoid()
    return replace(graph, nodes=(*graph.nodes, Node(ADDED, op, (last.name,), last.shape)), outputs=(ADDED,))


def _batch(graph: Graph, count: int, generator: np.random.Generator) -> TrialBatch:
    """Noise, which no padding or interpolation leaves as it is, with lesions brighter by 2."""
    shape = graph.inputs[0].shape
    blobs = generator.random((count, _BLOBS, len(shape)))
    noise = generator.standard_normal((count, *shape))
    images = noise + 2 * (_labels(shape[:-1], blobs)[..., None] > 0)
    return TrialBatch(images.astype(np.float32), _masks(graph[graph.outputs[0]].shape, blobs))


def _masks(shape: Shape, blobs: npt.NDArray[np.float64]) -> FloatArray:
    """(N, *shape): lesions in {0, 1}, or one-hot of as many classes as there are channels; of a patch, turn by turn."""
    channels = shape[-1]
    labels = _labels(shape[:-1], blobs) if len(shape) > 1 else np.arange(len(blobs))
    if channels == 1:
        return (labels[..., None] % 2 if len(shape) == 1 else labels[..., None] > 0).astype(np.float32)
    classes = np.where(labels > 0, 1 + (labels - 1) % (channels - 1), 0) if len(shape) > 1 else labels % channels
    return np.eye(channels, dtype=np.float32)[classes]


def _labels(spatial: Shape, blobs: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """(N, *spatial): the number of the ball that covers a voxel, counted from 1, else 0.

    blobs: (N, balls, axes + 1) in [0, 1): a ball's centre, in shares of the grid, and its radius, 0.1 to 0.25 of it.
    """
    grid = np.stack(np.meshgrid(*((np.arange(n) + 0.5) / n for n in spatial), indexing="ij"), axis=-1)
    labels = np.zeros((len(blobs), *spatial), np.int64)
    for image, balls in enumerate(blobs):
        for number, (*centre, radius) in enumerate(balls, 1):
            inside = np.sum((grid - centre) ** 2, axis=-1) < (0.1 + 0.15 * radius) ** 2
            labels[image][inside] = number
    return labels
