"""Voxelwise: the probabilities of a network on patches at many voxels, patch by patch or by dense tiles."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

from mspipeline.backends.base import Backend, Execution
from mspipeline.errors import BackendError, ConfigError
from mspipeline.inference.border_classes import obstacle
from mspipeline.inference.cascade import predict_patches
from mspipeline.inference.cost_model import CostModel
from mspipeline.inference.dense import TileProgram
from mspipeline.inference.tiles import cut, deal, fitting_program
from mspipeline.labels import LESION, channels_of
from mspipeline.network.cost import cost
from mspipeline.network.graph import Graph
from mspipeline.patches.candidates import Coordinates
from mspipeline.volume import FloatArray

log = logging.getLogger(__name__)

Inference = Literal["auto", "dense", "patches"]
Report = Callable[[int], None]
"""Called with the number of voxels done."""
TRIAL = 4
"""Batches of patches whose time is taken before dense tiles are thought of; the first compiles and does not count."""


class VoxelNetwork:
    """A network on patches, to be asked at voxels. It keeps its dense program and what it measured from case to case.

    backend: with the trained network in it. graph: the network. execution: what the backend was built with.
    inference: "auto" computes a tile dense where the measured cost says that this is faster, and a network or a backend
    without a dense form by patches. memory_budget_mb: by which dense tiles may make the process grow, at most.
    Raises ShapeError where the network gives no probabilities of a patch, BackendError where "dense" is asked of one
    without a dense form, ConfigError where the budget is too small.
    """

    def __init__(
        self,
        backend: Backend,
        graph: Graph,
        execution: Execution,
        *,
        inference: Inference = "auto",
        memory_budget_mb: int = 1024,
    ) -> None:
        self.backend, self._graph, self._execution, self._inference = backend, graph, execution, inference
        x, y, z, _ = graph.inputs[0].shape
        self.size = x, y, z
        self.channels = channels_of(graph, spatial=())
        self._program: TileProgram | None = None
        self._tiles: Backend | None = None
        self.costs: CostModel | None = None
        self._warm = False
        if inference == "patches":
            return
        try:
            self._program = self._fitting(memory_budget_mb)
        except (BackendError, ConfigError) as error:
            if inference == "dense":
                raise
            log.info("patch by patch: %s", error)
            return
        self.costs = CostModel(cost(graph).macs, self._program.macs, len(self._program.graph.nodes))

    def _fitting(self, memory_budget_mb: int) -> TileProgram:
        remedy = "use --inference auto or patches"
        if problem := obstacle(self._graph):
            raise BackendError(f"{self._graph.name} has no dense form: {problem}; {remedy}")
        program = fitting_program(self._graph, self.backend.weights(), memory_budget_mb)
        if missing := type(self.backend).unsupported(program.graph):
            kinds = sorted({each.partition(" ")[2] for each in missing})
            raise BackendError(f"{self.backend.name} has no {' '.join(kinds)} for dense inference; {remedy}")
        return program

    def predict(
        self,
        image: FloatArray,
        centres: Coordinates,
        *,
        batch_size: int,
        threads: int = 1,
        report: Report | None = None,
    ) -> npt.NDArray[np.float32]:
        """The probability of lesion at voxels, as `predict_patches`; both ways differ by float32's rounding alone.

        image: (X, Y, Z, C), C-contiguous. centres: (N, 3). batch_size, threads: of patches. Returns (N,) in [0, 1].
        """
        probability = np.empty(len(centres), np.float32)
        open_ = np.ones(len(centres), bool)

        def by_patches(members: npt.NDArray[np.int64]) -> None:
            before, seen, began = len(centres) - int(open_.sum()), 0, time.perf_counter()

            def told(patches: int) -> None:
                nonlocal seen, began
                now = time.perf_counter()
                if self.costs is not None and self._warm and patches - seen == batch_size:
                    self.costs.saw_patches(batch_size, now - began)
                seen, began, self._warm = patches, now, True
                if report is not None:
                    report(before + patches)

            probability[members] = predict_patches(
                self.backend,
                self.channels,
                image,
                centres[members],
                self.size,
                batch_size=batch_size,
                threads=threads,
                report=told,
            )
            open_[members] = False

        tiles = [] if self._program is None else deal(centres, self._program.tile[0])
        if self._inference == "auto" and self.costs is not None:
            if not self.costs.patch_times:
                sparsest_first = [tile.members for tile in reversed(tiles)]
                by_patches(np.concatenate([np.empty(0, np.int64), *sparsest_first])[: TRIAL * batch_size])
            if self._tiles is None and not self.costs.repays_setup([int(open_[tile.members].sum()) for tile in tiles]):
                tiles = []
        dense = 0
        for tile in tiles:
            members = tile.members[open_[tile.members]]
            if self._inference == "dense" or (self.costs is not None and self.costs.prefers_dense(len(members))):
                probability[members] = self._tile(image, tile.first)[tuple((centres[members] - tile.first).T)]
                open_[members] = False
                dense += 1
                if report is not None:
                    report(len(centres) - int(open_.sum()))
        by_patches(np.flatnonzero(open_))
        log.info("voxels done all=%d dense_tiles=%d tiles=%d", len(centres), dense, len(tiles))
        return probability

    def _tile(self, image: FloatArray, first: npt.NDArray[np.int64]) -> FloatArray:
        """The probability of lesion at every voxel of the tile that begins at voxel `first`."""
        program, costs = self._program, self.costs
        if program is None or costs is None:
            raise BackendError(f"{self._graph.name}: no dense form was made; it predicts by patches")
        if self._tiles is None:
            self._tiles = type(self.backend)()
            self._tiles.build(program.graph, self._execution)
            self._tiles.set_weights(program.weights)
            self._tiles.predict(np.zeros((1, *program.graph.inputs[0].shape), np.float32))  # compiles
        began = time.perf_counter()
        low, high = np.array(program.reads).T + first - np.array(self.size) // 2
        answer = self._tiles.predict(cut(image, low, high)[None])  # (1, X, Y, Z, channels)
        costs.saw_tile(time.perf_counter() - began)
        return self.channels.probability(LESION, answer).reshape(program.tile)
