"""mspipeline.benchmarks.micro.reader_memory: sees memory that grows with the cases, and none in the reader."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mspipeline.benchmarks.micro.reader_memory import measure, peak_rss_bytes, read_epochs
from mspipeline.recipes.slices2d.shard import SliceEntry, read_slices
from mspipeline.shards.manifest import entries_as, load_manifest


def keep_every_case(shards: Path) -> None:
    kept = [read_slices(shards, entry).images for entry in entries_as(SliceEntry, load_manifest(shards).cases)]
    assert kept


def leave(shards: Path) -> None:
    os._exit(3)


@pytest.mark.slow
def test_the_reader_stays_within_its_bound_and_work_that_keeps_every_case_does_not() -> None:
    [reading] = measure(read_epochs, cases=2)
    [keeping] = measure(keep_every_case, cases=2)
    assert reading.ok
    assert not keeping.ok


def test_a_process_that_dies_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ended without an answer"):
        peak_rss_bytes(leave, tmp_path)
