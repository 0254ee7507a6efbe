"""The network of a run folder, built again: from the catalogue, or from the file that the run has of it.

A run has a file of its network where the suite may not be able to build it again: it was imported, or comes from a
user's file or another package.
"""

from __future__ import annotations

from pathlib import Path

from mspipeline.errors import DataError, RunFolderError
from mspipeline.files import read_json, write_json
from mspipeline.models.catalogue import build, is_built_in
from mspipeline.network.graph import Graph
from mspipeline.network.ops import Shape
from mspipeline.runs import RunPaths, RunRecord

IMPORTED = "imported"
"""The model's name in the record of a run that was made of an ONNX file."""


def keep_graph(folder: Path, model: str, graph: Graph) -> None:
    """Write the network of a run into its folder, unless the suite has that model itself. Raises StorageError."""
    if not is_built_in(model):
        write_json(RunPaths(folder).graph, graph.to_json())


def graph_of_run(folder: Path, record: RunRecord, image_shape: Shape) -> Graph:
    """The network of a run: from the catalogue, or from its `graph.json`. Raises RunFolderError."""
    if is_built_in(record.model):
        return build(record.model, image_shape, record.model_arguments)
    path = RunPaths(folder).graph
    remedy = "import the ONNX file again" if record.model == IMPORTED else "train again"
    try:
        document = read_json(path, what="graph", remedy=remedy)
        return Graph.from_json(document, name=record.run_id, where=str(path))
    except DataError as error:
        raise RunFolderError(str(error)) from error
