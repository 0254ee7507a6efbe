"""Runs and ONNX files: a trained run written as a file, and a run folder made of a file, for `predict` and `evaluate`.

An imported run is named by the model "imported"; its graph lies beside the record as `graph.json`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mspipeline.backends.base import Execution, FloatArray
from mspipeline.backends.onnxruntime import OnnxRuntimeBackend, run_file
from mspipeline.backends.registry import adapter, availability, create
from mspipeline.channels import channels_of
from mspipeline.errors import DataError, RunFolderError, ShapeError
from mspipeline.files import sha256_data, sha256_file, write_json
from mspipeline.interchange.onnx import OPSET, Imported, read_onnx, write_onnx
from mspipeline.interchange.runs.record import imported_record, new_run
from mspipeline.labels import LESIONS, LabelSet
from mspipeline.models.stored import IMPORTED, graph_of_run
from mspipeline.network.graph import Graph
from mspipeline.network.ops import Shape
from mspipeline.network.weights import Weights
from mspipeline.recipes.catalogue import AnyRecipe
from mspipeline.recipes.trained import recipe_of_run
from mspipeline.runs import RunPaths, RunRecord, write_record
from mspipeline.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint

IMAGES = 2  # of the batch that two programs are compared on
TOLERANCE = 1e-3
"""Of what an imported graph gives against its file, by the largest value: float32's rounding through 100 layers stays
below a tenth of it, another padding or interpolation far above.
"""


@dataclass(frozen=True)
class Exported:
    """What was written. inputs, outputs: name -> (C, *spatial).

    difference: largest, of onnxruntime on the file to the run's backend on a seeded batch; None where one is absent,
    and `absent` says which.
    """

    file: Path
    opset: int
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    backend: str
    difference: float | None
    absent: str = ""


def export_run(
    folder: Path, file: Path, *, checkpoint: Literal["best", "last"], stage: int | None, threads: int
) -> Exported:
    """Write the network of a run as an ONNX file.

    stage: of a cascade, counted from 1. Raises RunFolderError where the run cannot be used, UsageError where a
    cascade's stage is not named, BackendError without onnx, StorageError.
    """
    record, recipe = recipe_of_run(folder)
    source = recipe.checkpoint_file(RunPaths(folder), record, checkpoint, stage)
    graph = graph_of_run(folder, record, recipe.image_shape)
    stored = read_checkpoint(source)
    if stored.graph_hash != graph.hash:
        raise RunFolderError(
            f"{source}: holds weights of graph {stored.graph_hash[:12]}, but {record.model} builds {graph.hash[:12]} "
            "in this version; export with the version that trained it"
        )
    write_onnx(file, graph, stored.weights)
    absent = availability(record.backend).problem or (
        "" if find_spec("onnxruntime") else "onnxruntime is not installed"
    )
    difference = None if absent else _source_difference(record.backend, file, graph, stored.weights, threads)
    return Exported(
        file,
        OPSET,
        {node.name: (node.shape[-1], *node.shape[:-1]) for node in graph.inputs},
        {name: (graph[name].shape[-1], *graph[name].shape[:-1]) for name in graph.outputs},
        record.backend,
        difference,
        absent,
    )


def _batch(shape: Shape, count: int = IMAGES) -> FloatArray:
    """Seeded images, (N, *spatial, C)."""
    return np.random.default_rng(0).standard_normal((count, *shape), np.float32)


def _source_difference(name: str, file: Path, graph: Graph, weights: Weights, threads: int) -> float:
    """Largest difference of the file in onnxruntime to the same network on a backend."""
    backend, images = create(name), _batch(graph.inputs[0].shape)
    backend.build(graph, Execution(threads=threads))
    backend.set_weights(weights)
    (first, *_) = run_file(file, [np.ascontiguousarray(np.moveaxis(images, -1, 1))], threads)
    return float(np.abs(np.moveaxis(first, 1, -1) - backend.predict(images)).max())


def import_difference(file: Path, imported: Imported, threads: int) -> float:
    """Largest difference of what was read, run by onnxruntime, to the file itself, by the file's largest value."""
    (node, *_), (axes, *_) = imported.graph.inputs, imported.input_axes
    images = _batch(node.shape, imported.batch or IMAGES)
    theirs = images.transpose(0, *(axis + 1 for axis in axes))  # (N, *ours) -> (N, *the file's)
    (expected, *_) = run_file(file, [np.ascontiguousarray(theirs)], threads)
    backend = OnnxRuntimeBackend()
    backend.build(imported.graph, Execution(device="cpu", threads=threads))
    backend.set_weights(imported.weights)
    given = backend.predict(images)
    lacking = [axis for axis in range(given.ndim - 1) if axis not in imported.output_axes[0]]
    order = (0, *(axis + 1 for axis in (*imported.output_axes[0], *lacking)))
    given = given.transpose(order).reshape(expected.shape)
    return float(np.abs(given - expected).max() / max(float(np.abs(expected).max()), 1.0))


@dataclass(frozen=True)
class ImportedRun:
    """The run that was made. difference: as `import_difference` gives it, None without onnxruntime."""

    record: RunRecord
    imported: Imported
    difference: float | None


def import_run(
    file: Path,
    output: Path,
    *,
    recipe: AnyRecipe,
    labels: LabelSet = LESIONS,
    data: Mapping[str, str],
    shape: Shape | None,
    backend: str,
    threshold: float,
    threads: int,
    origin: dict[str, Any],
) -> ImportedRun:
    """Make OUTPUT a run of the network in an ONNX file; everything is read and checked before anything is written.

    recipe: what makes the network's images of scans. labels: what the network was trained for. data: "dataset_hash" and
    "split_hash" of the shards that the run may be scored on; empty where there are none. shape: as for `read_onnx`.
    origin: where the import happens.
    Raises RunFolderError where OUTPUT holds a run, what `read_onnx` does, ShapeError where the network does not take
    the recipe's images or give probabilities of labels, DataError where what was read does not compute what the file
    does.
    """
    paths = new_run(output)
    imported = read_onnx(file, shape)
    graph = imported.graph
    adapter(backend).check(graph)
    _check_images(file, graph, recipe, labels)
    difference = import_difference(file, imported, threads) if find_spec("onnxruntime") else None
    if difference is not None and not difference <= TOLERANCE:
        raise DataError(
            f"{file}: what was read of it differs from what onnxruntime makes of it by {difference:.1g} of its largest "
            "value; nothing was imported: please report this file's operations"
        )
    digest = sha256_file(file)
    config = sha256_data([graph.hash, recipe.hash, digest, backend, threshold])
    record = imported_record(
        graph,
        stem=re.sub(r"[^A-Za-z0-9_-]+", "_", file.stem).strip("_") or "onnx",
        model=IMPORTED,
        backend=backend,
        recipe=recipe.settings,
        threshold=threshold,
        config_hash=config,
        sources={str(file): digest},
        origin=origin,
        data=data,
        labels=labels,
        threads=threads,
    )
    write_json(paths.graph, graph.to_json())
    for checkpoint in (paths.best, paths.last):
        write_checkpoint(checkpoint, Checkpoint(graph.hash, config, imported.weights))
    write_record(paths, record)  # last: a folder with a record is whole
    return ImportedRun(record, imported, difference)


def _check_images(file: Path, graph: Graph, recipe: AnyRecipe, labels: LabelSet) -> None:
    """Raise ShapeError where images of the recipe do not fit the network, or it gives no probabilities of labels."""
    taken, made = [node.shape for node in graph.inputs], recipe.image_shape
    if taken != [made]:
        raise ShapeError(
            f"{file}: takes images of {', '.join(map(str, taken))}, but the recipe makes {made} (height, width, "
            "channels); name the recipe or the shards it was trained with: --recipe, --set size=[X,Y,Z], --shards"
        )
    try:
        channels_of(graph, recipe.mask_shape, labels)
    except ShapeError as error:
        raise ShapeError(f"{file}: {error}") from error
