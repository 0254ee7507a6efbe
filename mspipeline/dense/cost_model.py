"""Cost model: the arithmetic of dense and patch-wise inference, from their graphs and recorded constants alone.

What a run computes never depends on a clock: the two ways differ in float32's last bits, so the same case takes the
same way on every machine, however busy, and whichever cases came before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

EFFICIENCY = 0.4
"""Of dense arithmetic against patch-wise: multiply-accumulates a second. The lowest of what was measured, 0.4 to 0.9
(cascade3d and nicms, TensorFlow, PyTorch and JAX, 2 CPU cores), so that dense tiles are taken where all engines gain.
"""
SETUP_MACS_PER_NODE = 300_000_000
"""To build and compile the dense program: 0.02 s a node (cascade3d's 400 nodes take 2 s on TensorFlow, 8 s on JAX), in
which patches make 15 G multiply-accumulates a second: 342,972 of 10.5 M each in 240 s (docs/performance.md, TensorFlow,
2 CPU cores).
"""


@dataclass(frozen=True)
class CostModel:
    """What one network costs. patch_macs: of one patch. tile_macs, nodes: of the dense program."""

    patch_macs: int
    tile_macs: int
    nodes: int

    def prefers_dense(self, candidates: int) -> bool:
        """Whether a tile with so many candidates is better computed whole."""
        return self._saved(candidates) > 0

    def repays_setup(self, candidates: Sequence[int]) -> bool:
        """Whether the tiles with these numbers of candidates save more work than making the dense program costs."""
        return sum(max(0.0, self._saved(each)) for each in candidates) > SETUP_MACS_PER_NODE * self.nodes

    def _saved(self, candidates: int) -> float:
        """Multiply-accumulates that a dense tile saves, counted as those of patches."""
        return candidates * self.patch_macs - self.tile_macs / EFFICIENCY
