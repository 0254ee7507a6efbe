"""Dropout's masks: drawn in NumPy from the seed, the node and the step alone, and fed to every backend.

So a training drops the same values on every backend, in any number of processes that share its batches, and after
having been stopped; all there is to keep is how many steps have drawn.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mspipeline.backends.process_group import ProcessGroup
from mspipeline.errors import ShapeError
from mspipeline.network.graph import Graph
from mspipeline.network.ops import Dropout

FloatArray = npt.NDArray[np.float32]

DRAWS = "random/draws"
"""The name, in a backend's state, of how many training steps have drawn masks."""


class DropoutMasks:
    """The masks of a graph's dropouts, step after step.

    seed: of the run. group: the processes among which the images of a batch are shared out.
    """

    def __init__(self, graph: Graph, seed: int, group: ProcessGroup) -> None:
        self._seed, self._group = seed, group
        self._rates = {
            node.name: (node.shape, node.op.rate) for node in graph if isinstance(node.op, Dropout) and node.op.rate > 0
        }
        self.draws = 0

    @property
    def nodes(self) -> list[str]:
        """The dropouts that have masks, in the order of the graph; those of rate 0 have none."""
        return list(self._rates)

    def of_step(self, images: int, *, replicated: bool = False) -> dict[str, FloatArray]:
        """The masks of the step after `draws` others: by node (N, *shape), 0 or 1 / (1 - rate).

        images: of this process's share of the joint batch, or of the batch itself where it is `replicated`. All masks
        of the joint batch are drawn, so that each image has the one that it would have in one process.
        """
        size, rank = (1, 0) if replicated else (self._group.size, self._group.rank)
        masks = {}
        for place, (node, (shape, rate)) in enumerate(self._rates.items()):
            generator = np.random.default_rng([self._seed, place, self.draws])
            drawn = generator.random((images * size, *shape), np.float32)[rank * images : (rank + 1) * images]
            masks[node] = np.multiply(drawn >= rate, np.float32(1 / (1 - rate)), dtype=np.float32)
        return masks

    def state(self) -> dict[str, npt.NDArray[np.int64]]:
        """What `set_state` goes on from."""
        return {DRAWS: np.array(self.draws, np.int64)}

    def set_state(self, draws: npt.NDArray[np.generic] | None) -> None:
        """Go on after so many draws. Raises ShapeError where the state holds something else."""
        if draws is None or draws.shape != ():
            raise ShapeError(f"state of another version of this backend: {DRAWS} is missing; train into another folder")
        self.draws = int(draws)
