"""What a job was doing when a sample was taken: samples joined with the job's events on the monotonic clock."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mspipeline.telemetry.schema import EVENTS

Interval = tuple[str | None, int | None]


def phases_at(times_ns: npt.NDArray[np.int64], events: pa.Table) -> tuple[pa.Array, pa.Array]:
    """Phase and epoch at each time: (dictionary of strings, int32), both as long as `times_ns`.

    times_ns: (N,) int64, monotonic clock of the host the events were written on. events: rows of EVENTS.
    The innermost phase counts; its epoch is its own or, where it has none, that of the phase around it. Null outside
    any phase. A phase without an end (its job was killed) lasts to the last sample; an end without a beginning is
    ignored. At the very time of an event, what holds after it counts.
    """
    starts_ns, states = _timeline(events)
    index = np.searchsorted(starts_ns, times_ns, side="right")  # (N,), 0 before the first event
    phases = pa.array([None, *(phase for phase, _ in states)], EVENTS.field("phase").type)
    epochs = pa.array([None, *(epoch for _, epoch in states)], pa.int32())
    return phases.take(pa.array(index)), epochs.take(pa.array(index))


def phase_seconds(events: pa.Table, phase: str) -> float | None:
    """Seconds from begin to end of a phase, summed over its occurrences; None where none was ended."""
    total_ns, begun, ended = 0, [], False
    for kind, name, _, time_ns in _rows(events):
        if name == phase and kind == "begin":
            begun.append(time_ns)
        elif name == phase and begun:
            total_ns += time_ns - begun.pop()
            ended = True
    return total_ns / 1e9 if ended else None


def _timeline(events: pa.Table) -> tuple[npt.NDArray[np.int64], list[Interval]]:
    """Times at which the state changes, in order, and the innermost phase with its epoch from each on."""
    open_phases: list[Interval] = []
    times_ns: list[int] = []
    states: list[Interval] = []
    for kind, phase, epoch, time_ns in _rows(events):
        if kind == "begin":
            around = open_phases[-1][1] if open_phases else None
            open_phases.append((phase, around if epoch is None else epoch))
        else:
            innermost = next((i for i in reversed(range(len(open_phases))) if open_phases[i][0] == phase), None)
            if innermost is not None:
                del open_phases[innermost:]  # phases inside it that were never ended end with it
        times_ns.append(time_ns)
        states.append(open_phases[-1] if open_phases else (None, None))
    return np.array(times_ns, np.int64), states


def _rows(events: pa.Table) -> list[tuple[str, str, int | None, int]]:
    """Kind, phase, epoch and time of each event, in the order of time and, at one time, of writing."""
    columns = [events.column(name).to_pylist() for name in ("kind", "phase", "epoch", "monotonic_ns")]
    return sorted(zip(*columns, strict=True), key=lambda row: row[3])
