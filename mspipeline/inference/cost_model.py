"""Cost model: seconds that dense and patch-wise inference take here, measured while they work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

EFFICIENCY = 0.4
"""Of dense arithmetic against patch-wise, until a tile was timed: measured 0.4 to 0.9 on 2 CPU cores, all engines."""
SETUP_S_PER_NODE = 0.02
"""To build and compile the dense program; cascade3d's has 400 nodes and takes 2 s, on JAX 8 s."""
KEPT = 9


@dataclass
class CostModel:
    """What one network costs on this machine. patch_macs: of one patch. tile_macs, nodes: of the dense program.

    Times are medians of the last KEPT measurements, so that one hold-up decides nothing.
    """

    patch_macs: int
    tile_macs: int
    nodes: int
    patch_times: list[float] = field(default_factory=list)
    tile_times: list[float] = field(default_factory=list)

    def saw_patches(self, count: int, seconds: float) -> None:
        """count patches took `seconds`."""
        self.patch_times = [*self.patch_times, seconds / count][-KEPT:]

    def saw_tile(self, seconds: float) -> None:
        self.tile_times = [*self.tile_times, seconds][-KEPT:]

    @property
    def patch_s(self) -> float:
        """Seconds of a patch; 0 before any was seen, which makes patches the choice."""
        return median(self.patch_times) if self.patch_times else 0.0

    @property
    def tile_s(self) -> float:
        """Seconds of a tile; from the arithmetic, before one was seen."""
        if self.tile_times:
            return median(self.tile_times)
        return self.patch_s * self.tile_macs / (self.patch_macs * EFFICIENCY)

    def prefers_dense(self, candidates: int) -> bool:
        """Whether a tile with so many candidates is better computed whole."""
        return candidates * self.patch_s > self.tile_s

    def repays_setup(self, candidates: Sequence[int]) -> bool:
        """Whether the tiles with these numbers of candidates save more time than making the dense program costs."""
        saved = sum(max(0.0, each * self.patch_s - self.tile_s) for each in candidates)
        return saved > SETUP_S_PER_NODE * self.nodes
