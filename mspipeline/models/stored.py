"""The network of a run folder, built again: from the catalogue, or from the file that an imported run has of it."""

from __future__ import annotations

from pathlib import Path

from mspipeline.errors import DataError, RunFolderError
from mspipeline.files import read_json
from mspipeline.models.catalogue import build
from mspipeline.network.graph import Graph
from mspipeline.network.ops import Shape
from mspipeline.runs import RunRecord

IMPORTED = "imported"
"""The model's name in the record of a run that was made of an ONNX file."""


def stored_graph(folder: Path) -> Path:
    """Where an imported run has its network."""
    return folder / "graph.json"


def graph_of_run(folder: Path, record: RunRecord, image_shape: Shape) -> Graph:
    """The network of a run: from the catalogue, or of an imported run from its `graph.json`. Raises RunFolderError."""
    if record.model != IMPORTED:
        return build(record.model, image_shape, record.model_arguments)
    path = stored_graph(folder)
    try:
        document = read_json(path, what="graph", remedy="import the ONNX file again")
        return Graph.from_json(document, name=record.run_id, where=str(path))
    except DataError as error:
        raise RunFolderError(str(error)) from error
