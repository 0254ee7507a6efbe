"""The network of a trained run on the backend that trained it, its weights from a checkpoint."""

from __future__ import annotations

from pathlib import Path

from mspipeline.backends.base import Backend, Execution
from mspipeline.backends.registry import create
from mspipeline.errors import RunFolderError
from mspipeline.network.graph import Graph
from mspipeline.runs import RunRecord
from mspipeline.training.checkpoint import read_checkpoint


def stored_network(graph: Graph, record: RunRecord, file: Path, execution: Execution) -> Backend:
    """The network of a record with the weights of a checkpoint.

    Raises RunFolderError where the checkpoint cannot be used or holds weights of another graph, BackendError where the
    backend is absent.
    """
    stored = read_checkpoint(file)
    if stored.graph_hash != graph.hash:
        raise RunFolderError(
            f"{file}: holds weights of graph {stored.graph_hash[:12]}, but {record.model} builds {graph.hash[:12]} in "
            "this version; predict with the version that trained it"
        )
    backend = create(record.backend)
    backend.build(graph, execution)
    backend.set_weights(stored.weights)
    return backend
