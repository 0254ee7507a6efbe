"""Long series made short enough to draw: thinning, bins, running time, spans of phases."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

POINTS = 500
"""The most points that one line of a figure has."""

Floats: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float64]]


def floats(table: pa.Table, column: str) -> Floats:
    """A column as floats, null as NaN."""
    return np.asarray(pc.cast(table[column], pa.float64(), safe=False).to_numpy(), float)


def thin(places: Floats, values: Floats) -> tuple[Floats, Floats]:
    """At most `POINTS` of the points, evenly spread, the first and the last among them."""
    if len(places) <= POINTS:
        return places, values
    kept = np.linspace(0, len(places) - 1, POINTS).round().astype(int)
    return places[kept], values[kept]


def binned(times: Floats, values: Floats, how: str) -> tuple[Floats, Floats]:
    """At most `POINTS` points: the "mean" or "max" of each bin of time, NaN where a bin has no value.

    times: ascending. Series that are short enough come back as they are. Each point stands at its bin's middle.
    """
    if len(times) <= POINTS:
        return times, values
    edges = np.linspace(times[0], times[-1], POINTS + 1)
    starts = np.unique(np.searchsorted(times, edges[:-1]))
    starts = starts[starts < len(times)]
    known = ~np.isnan(values)
    middles = np.add.reduceat(times, starts) / np.diff(np.append(starts, len(times)))
    counts = np.add.reduceat(known.astype(float), starts)
    if how == "max":
        peaks = np.maximum.reduceat(np.where(known, values, -np.inf), starts)
        return middles, np.where(counts > 0, peaks, np.nan)
    sums = np.add.reduceat(np.where(known, values, 0.0), starts)
    return middles, np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)


def running_seconds(samples: pa.Table) -> tuple[Floats, list[float]]:
    """Seconds of running time of each sample, and those at which another job or attempt begins.

    samples: of one run, sorted by `time_utc`. The wait between two attempts or jobs counts as nothing.
    """
    if not samples.num_rows:
        return np.zeros(0), []
    seconds = floats(samples.append_column("ns", pc.cast(samples["time_utc"], pa.int64())), "ns") / 1e9
    seconds -= seconds[0]
    jobs = pc.fill_null(samples["job"], "").to_numpy(zero_copy_only=False)
    attempts = pc.fill_null(samples["restart_count"], -1).to_numpy()
    begins = np.flatnonzero((jobs[1:] != jobs[:-1]) | (attempts[1:] != attempts[:-1])) + 1
    for begin in begins:
        seconds[begin:] -= seconds[begin] - seconds[begin - 1]
    return seconds, [float(seconds[begin]) for begin in begins]


def phase_spans(times: Floats, phases: pa.ChunkedArray) -> dict[str, list[tuple[float, float]]]:
    """Phase -> (start, width) of each stretch of time it filled, at most `POINTS` in all.

    Samples of no phase have no span. times: ascending, in the unit of the spans.
    """
    if not len(times):
        return {}
    names = pc.fill_null(phases, "").to_numpy(zero_copy_only=False)
    kept = np.linspace(0, len(times) - 1, min(len(times), POINTS)).round().astype(int)
    times, names = times[kept], names[kept]
    begins = np.concatenate([[0], np.flatnonzero(names[1:] != names[:-1]) + 1])
    ends = np.append(times[begins[1:]], times[-1])
    spans: dict[str, list[tuple[float, float]]] = {}
    for begin, end in zip(begins, ends, strict=True):
        if names[begin]:
            spans.setdefault(str(names[begin]), []).append((float(times[begin]), float(end - times[begin])))
    return spans
