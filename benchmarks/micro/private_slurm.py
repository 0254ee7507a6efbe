"""The tests' private SLURM, for the benchmarks that need one; see tests/slurm/cluster.py."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mspipeline.campaigns.site import Partition, Site

TESTS = Path(__file__).resolve().parents[2] / "tests" / "slurm"
SITE = Site(
    name="private",
    executor="slurm",
    partitions={"cpu": Partition(cpus=1, mem_gb=2, time_min=30)},
    warn_s=30,
)


@contextmanager
def private_slurm() -> Iterator[Any]:
    """A cluster that this process and those it starts see; None, with the reason on stderr, where there can be none."""
    if not TESTS.exists():
        print(f"skipped: no {TESTS}; run this in a checkout", file=sys.stderr)
        yield None
        return
    sys.path.insert(0, str(TESTS.parents[1]))
    cluster = importlib.import_module("tests.slurm.cluster")
    if missing := cluster.missing_packages():
        print(f"skipped: no SLURM here; apt-get install {' '.join(missing)}", file=sys.stderr)
        yield None
        return
    with cluster.start_cluster() as started:
        os.environ.update(started.environment)
        yield started
