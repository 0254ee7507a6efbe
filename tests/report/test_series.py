from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa
import pytest

from mspipeline.report.series import POINTS, binned, phase_spans, running_seconds, thin


def test_short_series_stay_as_they_are() -> None:
    places, values = np.arange(3.0), np.array([1.0, np.nan, 3.0])
    assert thin(places, values) == (places, values)
    assert binned(places, values, "mean") == (places, values)


def test_thinning_keeps_both_ends() -> None:
    places, values = thin(np.arange(10_001.0), np.arange(10_001.0) ** 2)
    assert (len(places), places[0], places[-1], values[-1]) == (POINTS, 0, 10_000, 1e8)


def test_bins_hold_means_or_peaks_of_their_samples() -> None:
    times = np.arange(2.0 * POINTS)
    values = np.tile([1.0, 3.0], POINTS)
    values[:2] = np.nan
    middles, means = binned(times, values, "mean")
    assert (len(middles), middles[1]) == (POINTS, 2.5)
    assert np.isnan(means[0])
    assert set(means[1:]) == {2.0}
    assert set(binned(times, values, "max")[1][1:]) == {3.0}


def test_a_peak_of_one_sample_survives_binning() -> None:
    values = np.ones(100_000)
    values[54_321] = 9.0
    assert binned(np.arange(100_000.0), values, "max")[1].max() == 9.0


def test_the_wait_before_another_job_counts_as_nothing() -> None:
    start = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
    times = [start + datetime.timedelta(seconds=second) for second in (0, 1, 2, 5002, 5003, 9000)]
    samples = pa.table(
        {
            "time_utc": pa.array(times, pa.timestamp("ns", tz="UTC")),
            "job": ["train", "train", "train", "train", "train", "evaluate"],
            "restart_count": pa.array([0, 0, 0, 1, 1, 1], pa.int32()),
        }
    )
    running, begins = running_seconds(samples)
    assert running.tolist() == [0, 1, 2, 2, 3, 3]
    assert begins == [2, 3]


def test_no_samples_have_no_time_and_no_spans() -> None:
    empty = pa.schema([("time_utc", pa.timestamp("ns", tz="UTC")), ("job", pa.string()), ("restart_count", pa.int32())])
    assert running_seconds(empty.empty_table())[1] == []
    assert phase_spans(np.zeros(0), pa.chunked_array([[]], pa.string())) == {}


def test_spans_join_neighbours_of_one_phase_and_skip_samples_of_none() -> None:
    phases = pa.chunked_array([["train", "train", None, "validation", "train"]])
    spans = phase_spans(np.array([0.0, 1.0, 2.0, 3.0, 4.0]), phases)
    assert spans == {"train": [(0.0, 2.0), (4.0, 0.0)], "validation": [(3.0, 1.0)]}


@pytest.mark.parametrize("length", [1, 2, POINTS, 50_000])
def test_spans_stay_few(length: int) -> None:
    phases = pa.chunked_array([["train", "validation"] * (length // 2) + ["train"] * (length % 2)])
    spans = phase_spans(np.arange(float(length)), phases)
    assert 1 <= sum(map(len, spans.values())) <= POINTS
