"""Who prepares which case: what a case will cost, and the order in which cases are given out. Talks to nobody.

Cases are given to whoever is free, the most expensive first: the last ones given out are then small, and what a rank
waits for the others at the end is at most one of them (Graham 1969, longest processing time first).
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

SECONDS_PER_BYTE = 1 / 200e6
"""Read, hash and decompress: of a byte of a file."""
SECONDS_PER_VOXEL = 60e-9
"""Normalise, resample, compress: of a voxel of a scan, on one thread. Only the ratio of the two decides the order."""


def estimated_cost(file_bytes: int, voxels: int) -> float:
    """Seconds that one case will take, roughly. file_bytes, voxels: of all its files together, from their headers.

    >>> estimated_cost(200_000_000, 0)
    1.0
    """
    return file_bytes * SECONDS_PER_BYTE + voxels * SECONDS_PER_VOXEL


class Deal:
    """Places of tasks in their list, handed out one at a time, each once.

    costs: of each task, in any unit. ranks: one alone takes the tasks as they are listed; several, the most expensive
    first, equal ones as listed. `next` and `stop` may be called from several threads.
    """

    def __init__(self, costs: Sequence[float], ranks: int) -> None:
        places = range(len(costs))
        self._left = deque(places if ranks == 1 else sorted(places, key=lambda place: -costs[place]))

    def next(self) -> int | None:
        """The place of the next task; None where there is none left."""
        try:
            return self._left.popleft()
        except IndexError:
            return None

    def stop(self) -> None:
        """Hand out no more."""
        self._left.clear()


def skew(seconds: Sequence[float]) -> float:
    """The busiest rank's seconds over the mean of all; 1 is perfect, NaN where nobody did anything.

    >>> skew([3.0, 1.0])
    1.5
    """
    total = sum(seconds)
    return max(seconds) * len(seconds) / total if total > 0 else math.nan


@dataclass(frozen=True)
class Simulated:
    """wall_s: until the last rank has ended. busy_s: of each rank."""

    wall_s: float
    busy_s: tuple[float, ...]


def simulate(seconds: Sequence[float], costs: Sequence[float], ranks: int, *, handing_s: float = 0.0) -> Simulated:
    """What `Deal` would make of tasks on that many ranks, by the clock and not by running them.

    seconds: that each task takes on a rank; nothing slows another down. costs: estimates, which decide the order.
    handing_s: that rank 0 is busy with one request, one after another.
    """
    deal = Deal(costs, ranks)
    busy = [0.0] * ranks
    asking = [(0.0, rank) for rank in range(ranks)]  # a heap of (time, rank)
    free_at = wall = 0.0
    while asking and (place := deal.next()) is not None:
        asked_at, rank = heapq.heappop(asking)
        free_at = max(free_at, asked_at) + handing_s
        ended = free_at + seconds[place]
        busy[rank] += seconds[place]
        wall = max(wall, ended)
        heapq.heappush(asking, (ended, rank))
    return Simulated(wall, tuple(busy))
