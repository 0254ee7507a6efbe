"""The record of a run whose network was trained elsewhere: `mspipeline predict` reads it as any other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mspipeline.backends.registry import availability
from mspipeline.errors import RunFolderError
from mspipeline.labels import LESIONS, LabelSet, stored
from mspipeline.network.cost import cost
from mspipeline.network.graph import Graph
from mspipeline.recipes.base import Schema
from mspipeline.runs import CascadeSettings, RunPaths, RunRecord, utc_now


def new_run(folder: Path) -> RunPaths:
    """The paths of a folder that is to become a run. Raises RunFolderError where it holds one."""
    paths = RunPaths(folder)
    if paths.record.exists():
        raise RunFolderError(f"{folder}: holds a run already; import into another folder")
    return paths


def imported_record(
    graph: Graph,
    *,
    stem: str,
    model: str,
    backend: str,
    recipe: Schema,
    threshold: float,
    config_hash: str,
    sources: Mapping[str, str],
    origin: Mapping[str, Any],
    data: Mapping[str, str] | None = None,
    cascade: CascadeSettings | None = None,
    labels: LabelSet = LESIONS,
    threads: int = 0,
) -> RunRecord:
    """A complete run without a training of ours.

    stem: of the run's name. sources: SHA-256 by file. origin: where the import happens, as `provenance` gives it.
    data: the hashes of the dataset and its split, where they are known. labels: what predictions are made of.
    """
    costs, known = cost(graph), data or {}
    now = utc_now()
    return RunRecord(
        run_id=f"{stem}-imported-{config_hash[:8]}",
        status="complete",
        model=model,
        model_arguments={},
        backend=backend,
        backend_version=availability(backend).version or "",
        device="auto",
        seed=0,
        threads=threads,
        started_utc=now,
        ended_utc=now,
        monitor="none",
        threshold=threshold,
        cascade=cascade,
        labels=stored(labels),
        trainable_parameters=costs.trainable,
        non_trainable_parameters=costs.non_trainable,
        macs=costs.macs,
        graph_hash=graph.hash,
        dataset_hash=known.get("dataset_hash", ""),
        split_hash=known.get("split_hash", ""),
        recipe_hash=recipe.hash,
        recipe=recipe.model_dump(mode="json"),
        config_hash=config_hash,
        provenance={**origin, "imported_from": dict(sources)},
    )
