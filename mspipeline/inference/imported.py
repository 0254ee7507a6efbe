"""A run folder for networks that were trained elsewhere: `mspipeline predict` reads it as any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mspipeline.backends.registry import adapter, availability
from mspipeline.config import TrainingSettings, nearest, parse
from mspipeline.errors import ConfigError, RunFolderError
from mspipeline.files import sha256_data, sha256_file
from mspipeline.models.catalogue import build
from mspipeline.models.nicms_weights import read_nicms_weights
from mspipeline.network.cost import cost
from mspipeline.preprocess.patches3d import PatchRecipe
from mspipeline.runs import CascadeSettings, RunPaths, RunRecord, write_record
from mspipeline.training.checkpoint import Checkpoint, write_checkpoint

MODEL = "nicms"
THRESHOLD = 0.5
"""Probability from which nicMSlesions counts a voxel as lesion (its t_bin)."""


def import_nicms(
    files: Sequence[Path],
    output: Path,
    *,
    modalities: Sequence[str],
    backend: str,
    origin: dict[str, Any],
    settings: Mapping[str, Any] | None = None,
) -> RunRecord:
    """Make OUTPUT a run of nicMSlesions' networks, one file a stage.

    files: HDF5, in the order of the stages. modalities: the channels in the order of their training. origin: where the
    import happens, as `provenance` gives it. Scans are normalised as the Keras versions did (`PatchRecipe.spread`), and
    the cascade's numbers are theirs; settings: keys of `PatchRecipe` and `CascadeSettings`, or `threshold`, replace
    them. Everything is read before anything is written.
    Raises RunFolderError where OUTPUT holds a run, what `read_nicms_weights` does, ConfigError for modalities or
    settings that do not fit or an unknown backend, BackendError where the backend cannot have the network.
    """
    paths = RunPaths(output)
    if paths.record.exists():
        raise RunFolderError(f"{output}: holds a run already; import into another folder")
    recipe, cascade, threshold = _settings(modalities, len(files), settings or {})
    graph = build(MODEL, recipe.image_shape, {})
    adapter(backend).check(graph)
    stages = [read_nicms_weights(file, graph) for file in files]
    sources = {str(file): sha256_file(file) for file in files}
    costs = cost(graph)
    digest = sha256_data([graph.hash, recipe.hash, cascade.model_dump(), threshold, *sources.values(), backend])
    now = datetime.now(UTC).isoformat()
    record = RunRecord(
        run_id=f"{MODEL}-imported-{digest[:8]}",
        status="complete",
        model=MODEL,
        model_arguments={},
        backend=backend,
        backend_version=availability(backend).version or "",
        device="auto",
        seed=0,
        threads=0,
        started_utc=now,
        ended_utc=now,
        monitor="none",
        threshold=threshold,
        cascade=cascade,
        trainable_parameters=costs.trainable,
        non_trainable_parameters=costs.non_trainable,
        macs=costs.macs,
        graph_hash=graph.hash,
        dataset_hash="",
        split_hash="",
        recipe_hash=recipe.hash,
        recipe=recipe.model_dump(mode="json"),
        config_hash=digest,
        provenance={**origin, "imported_from": sources},
    )
    for number, weights in enumerate(stages, start=1):
        write_checkpoint(paths.stage(number, "best"), Checkpoint(graph.hash, digest, weights))
    write_record(paths, record)  # last: a folder with a record is whole
    return record


def _settings(
    modalities: Sequence[str], stages: int, settings: Mapping[str, Any]
) -> tuple[PatchRecipe, CascadeSettings, float]:
    """The recipe, the cascade's numbers and the threshold of the weights, with what the user replaces."""
    recipe = {"modalities": tuple(modalities), "spread": "volume", "zero_outside_brain": False}
    cascade: dict[str, Any] = {"stages": stages}
    threshold, where = THRESHOLD, "settings of the imported run"
    free = {*PatchRecipe.model_fields, *CascadeSettings.model_fields, "threshold"} - {"kind", "modalities", "stages"}
    for key, value in settings.items():
        if key not in free:
            raise ConfigError(f"unknown setting {key!r}; {nearest(key, list(free))}")
        if key == "threshold":
            threshold = parse({key: value}, TrainingSettings, where=where).threshold
        else:
            (recipe if key in PatchRecipe.model_fields else cascade)[key] = value
    return parse(recipe, PatchRecipe, where=where), parse(cascade, CascadeSettings, where=where), threshold
