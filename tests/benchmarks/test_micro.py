"""Every micro benchmark can be loaded, and those that take a size run on a small one."""

from __future__ import annotations

import pkgutil
from importlib import import_module

import pytest

from mspipeline.benchmarks import micro
from mspipeline.benchmarks.micro import campaign_status, gather, graph_build
from mspipeline.benchmarks.micro.result import Result

HELPERS = {"by_hand", "private_slurm", "result"}
"""Modules that others use."""
NAMES = sorted({module.name for module in pkgutil.iter_modules(micro.__path__)} - HELPERS)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_loads_and_measures(name: str) -> None:
    module = import_module(f"{micro.__name__}.{name}")
    assert callable(module.measure)
    assert module.__doc__


def test_building_graphs_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_build, "REPEATS", 1)
    _named(graph_build.measure(), 1)


def test_gathering_patches_is_measured_on_few(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in {"GRID": (32, 32, 32), "PATCHES": 200, "PATCHES_NUMPY": 50, "REPEATS": 1}.items():
        monkeypatch.setattr(gather, name, size)
    _named(gather.measure(), 1)


@pytest.mark.long
def test_the_state_of_a_campaign_is_measured_on_a_few_cells() -> None:
    _named(campaign_status.measure(seeds=1), 6)


def _named(results: list[Result], least: int) -> None:
    """Ratios of so few are of no interest, but there are some."""
    assert len(results) >= least
    assert all(result.ratio > 0 and result.name and result.peer for result in results)
