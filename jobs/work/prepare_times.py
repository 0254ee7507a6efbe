"""How a prepare went: what each rank did, how long each case took, how even it was. SHARDS/prepare.json and the log.

The file is beside the manifest and no part of it: times differ from run to run, shards and manifest do not.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mspipeline.files import write_json
from mspipeline.jobs.work.shards_folder import TIMES
from mspipeline.parallel.deal import skew
from mspipeline.parallel.ranks import Member

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
SHOWN_MAX = 8
"""Ranks in the log; all are in the file."""


@dataclass(frozen=True)
class CaseTime:
    """One case. seconds: on its rank. bytes: of its shard. kept: it was there already. cost: estimated, in seconds."""

    case: str
    rank: int
    seconds: float
    bytes: int
    kept: bool
    cost: float


@dataclass(frozen=True)
class RankTime:
    """What one rank did. cases, bytes: written. kept: cases found on disk. seconds: at work, hashing included."""

    rank: int
    host: str
    threads: int
    cases: int
    kept: int
    seconds: float
    bytes: int


def rank_times(
    members: Sequence[Member], cases: Sequence[CaseTime], hashing: Sequence[tuple[int, float]]
) -> list[RankTime]:
    """Sums by rank. hashing: (rank, seconds) of each case's source files."""
    made, kept, written = Counter[int](), Counter[int](), Counter[int]()
    seconds: defaultdict[int, float] = defaultdict(float)
    for rank, hashing_s in hashing:
        seconds[rank] += hashing_s
    for case in cases:
        seconds[case.rank] += case.seconds
        kept[case.rank] += case.kept
        made[case.rank] += not case.kept
        written[case.rank] += 0 if case.kept else case.bytes
    return [
        RankTime(one.rank, one.host, one.threads, made[one.rank], kept[one.rank], seconds[one.rank], written[one.rank])
        for one in members
    ]


def write_times(output: Path, ranks: Sequence[RankTime], cases: Sequence[CaseTime], wall_s: float) -> None:
    """Write SHARDS/prepare.json, seconds and bytes, and log it. Raises StorageError."""
    unevenness = skew([rank.seconds for rank in ranks])
    document = {
        "schema_version": SCHEMA_VERSION,
        "wall_seconds": wall_s,
        "skew": unevenness if math.isfinite(unevenness) else None,
        "ranks": [asdict(rank) for rank in ranks],
        "cases": [asdict(case) for case in sorted(cases, key=lambda case: case.case)],
    }
    write_json(output / TIMES, document)
    made = sum(rank.cases for rank in ranks)
    log.info("%d cases on %d ranks in %.1f s, skew %.2f (busiest rank / mean)", made, len(ranks), wall_s, unevenness)
    for rank in sorted(ranks, key=lambda rank: -rank.seconds)[:SHOWN_MAX]:
        log.info(
            "rank %d (%s, %d threads): %d cases, %.1f s, %.1f MB",
            *(rank.rank, rank.host, rank.threads, rank.cases, rank.seconds, rank.bytes / 1e6),
        )
    if len(ranks) > SHOWN_MAX:
        log.info("and %d more ranks, see %s", len(ranks) - SHOWN_MAX, output / TIMES)
