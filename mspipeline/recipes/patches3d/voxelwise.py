"""Voxelwise: the probabilities of a network on patches at many voxels, patch by patch or by dense tiles."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

from mspipeline.backends.base import Backend, Execution
from mspipeline.channels import channels_of
from mspipeline.dense.border_classes import obstacle
from mspipeline.dense.compiler import TileProgram
from mspipeline.dense.cost_model import CostModel
from mspipeline.dense.tiles import Tile, cut, deal, fitting_program
from mspipeline.errors import BackendError, ConfigError
from mspipeline.labels import LESION
from mspipeline.network.cost import cost
from mspipeline.network.graph import Graph
from mspipeline.patches.candidates import Coordinates
from mspipeline.recipes.patches3d.cascade import predict_patches
from mspipeline.volume import FloatArray

log = logging.getLogger(__name__)

Inference = Literal["auto", "dense", "patches"]
Report = Callable[[int], None]
"""Called with the number of voxels done."""


class VoxelNetwork:
    """A network on patches, to be asked at voxels. It keeps its dense program from case to case.

    backend: with the trained network in it. graph: the network. execution: what the backend was built with.
    inference: "auto" computes a tile dense where that needs less arithmetic (`cost_model`), and a network or a backend
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
        self._costs: CostModel | None = None
        if inference == "patches":
            return
        try:
            self._program = self._fitting(memory_budget_mb)
        except (BackendError, ConfigError) as error:
            if inference == "dense":
                raise
            log.info("patch by patch: %s", error)
            return
        self._costs = CostModel(cost(graph).macs, self._program.macs, len(self._program.graph.nodes))

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
        dense = self._dense_tiles(centres)
        for tile in dense:
            probability[tile.members] = self._tile(image, tile.first)[tuple((centres[tile.members] - tile.first).T)]
            open_[tile.members] = False
            if report is not None:
                report(len(centres) - int(open_.sum()))
        by_patches = np.flatnonzero(open_)
        before = len(centres) - len(by_patches)

        def done(patches: int) -> None:
            if report is not None:
                report(before + patches)

        probability[by_patches] = predict_patches(
            self.backend,
            self.channels,
            image,
            centres[by_patches],
            self.size,
            batch_size=batch_size,
            threads=threads,
            report=done,
        )
        log.info("voxels done all=%d by_patches=%d dense_tiles=%d", len(centres), len(by_patches), len(dense))
        return probability

    def _dense_tiles(self, centres: Coordinates) -> list[Tile]:
        """The tiles to compute whole; what is in none of them goes patch by patch."""
        if self._program is None or self._costs is None:
            return []
        tiles = deal(centres, self._program.tile[0])
        if self._inference == "dense":
            return tiles
        if not self._costs.repays_setup([len(tile.members) for tile in tiles]):
            return []
        return [tile for tile in tiles if self._costs.prefers_dense(len(tile.members))]

    def _tile(self, image: FloatArray, first: npt.NDArray[np.int64]) -> FloatArray:
        """The probability of lesion at every voxel of the tile that begins at voxel `first`."""
        program = self._program
        if program is None:
            raise BackendError(f"{self._graph.name}: no dense form was made; it predicts by patches")
        if self._tiles is None:
            self._tiles = type(self.backend)()
            self._tiles.build(program.graph, self._execution)
            self._tiles.set_weights(program.weights)
        low, high = np.array(program.reads).T + first - np.array(self.size) // 2
        answer = self._tiles.predict(cut(image, low, high)[None])  # (1, X, Y, Z, channels)
        return self.channels.probability(LESION, answer).reshape(program.tile)
