"""A run folder of the published nicMSlesions weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mspipeline.backends.registry import adapter
from mspipeline.config import TrainingSettings, parse
from mspipeline.errors import ConfigError, nearest
from mspipeline.files import sha256_data, sha256_file
from mspipeline.interchange.nicms_weights import read_nicms_weights
from mspipeline.interchange.runs.record import imported_record, new_run
from mspipeline.models.catalogue import build
from mspipeline.recipes.patches3d.schema import PatchSchema
from mspipeline.runs import CascadeSettings, RunRecord, write_record
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
    import happens, as `provenance` gives it. Scans are normalised as the Keras versions did (`PatchSchema.spread`), and
    the cascade's numbers are theirs; settings: keys of `PatchSchema` and `CascadeSettings`, or `threshold`, replace
    them. Everything is read before anything is written.
    Raises RunFolderError where OUTPUT holds a run, what `read_nicms_weights` does, ConfigError for modalities or
    settings that do not fit or an unknown backend, BackendError where the backend cannot have the network.
    """
    paths = new_run(output)
    recipe, cascade, threshold = _settings(modalities, len(files), settings or {})
    graph = build(MODEL, recipe.image_shape, {})
    adapter(backend).check(graph)
    stages = [read_nicms_weights(file, graph) for file in files]
    sources = {str(file): sha256_file(file) for file in files}
    digest = sha256_data([graph.hash, recipe.hash, cascade.model_dump(), threshold, *sources.values(), backend])
    record = imported_record(
        graph,
        stem=MODEL,
        model=MODEL,
        backend=backend,
        recipe=recipe,
        threshold=threshold,
        config_hash=digest,
        sources=sources,
        origin=origin,
        cascade=cascade,
    )
    for number, weights in enumerate(stages, start=1):
        write_checkpoint(paths.stage(number, "best"), Checkpoint(graph.hash, digest, weights))
    write_record(paths, record)  # last: a folder with a record is whole
    return record


def _settings(
    modalities: Sequence[str], stages: int, settings: Mapping[str, Any]
) -> tuple[PatchSchema, CascadeSettings, float]:
    """The recipe, the cascade's numbers and the threshold of the weights, with what the user replaces."""
    recipe = {"modalities": tuple(modalities), "spread": "volume", "zero_outside_brain": False}
    cascade: dict[str, Any] = {"stages": stages}
    threshold, where = THRESHOLD, "settings of the imported run"
    free = {*PatchSchema.model_fields, *CascadeSettings.model_fields, "threshold"} - {"kind", "modalities", "stages"}
    for key, value in settings.items():
        if key not in free:
            raise ConfigError(f"unknown setting {key!r}; {nearest(key, list(free))}")
        if key == "threshold":
            threshold = parse({key: value}, TrainingSettings, where=where).threshold
        else:
            (recipe if key in PatchSchema.model_fields else cascade)[key] = value
    return parse(recipe, PatchSchema, where=where), parse(cascade, CascadeSettings, where=where), threshold
