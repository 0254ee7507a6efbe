"""Checkpoints: one HDF5 file with all that a training needs to go on as if it had never stopped.

weights/<node>/<name>   state/<key>   attributes: schema_version, graph_hash, config_hash, progress (JSON)
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mspipeline.backends.base import State
from mspipeline.errors import RunFolderError
from mspipeline.files import whole_file
from mspipeline.hdf5 import is_dataset, open_hdf5, refusal
from mspipeline.network.weights import Weights

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """progress: plain data of the loop (epoch, step, scores so far); empty where only weights matter."""

    graph_hash: str
    config_hash: str
    weights: Weights
    state: State = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all. Raises StorageError."""
    with whole_file(path) as partial, open_hdf5(partial, "w", libver="latest") as file:
        file.attrs["schema_version"] = SCHEMA_VERSION
        file.attrs["graph_hash"] = checkpoint.graph_hash
        file.attrs["config_hash"] = checkpoint.config_hash
        for (node, name), array in checkpoint.weights.items():
            file[f"weights/{node}/{name}"] = array
        for key, value in checkpoint.state.items():
            file[f"state/{key}"] = value
        # Not an attribute: those are limited to 64 KiB, and long trainings have longer histories.
        file["progress"] = json.dumps(checkpoint.progress)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint. Raises RunFolderError where it is missing, corrupt or of another schema."""
    try:
        with open_hdf5(path) as file:
            if file.attrs["schema_version"] != SCHEMA_VERSION:
                raise RunFolderError(
                    f"{path}: schema version {file.attrs['schema_version']}, expected {SCHEMA_VERSION}"
                )
            weights = {
                (node, name): np.asarray(array)
                for node, arrays in file.get("weights", {}).items()
                for name, array in arrays.items()
            }
            state: State = {}

            def collect(name: str, item: Any) -> None:
                if is_dataset(item):
                    state[_spelled_now(name)] = np.asarray(item)

            if "state" in file:
                file["state"].visititems(collect)
            progress = json.loads(file["progress"][()])
            return Checkpoint(str(file.attrs["graph_hash"]), str(file.attrs["config_hash"]), weights, state, progress)
    except FileNotFoundError:
        raise RunFolderError(f"{path}: no such checkpoint; train this run first") from None
    except (OSError, KeyError, json.JSONDecodeError) as error:
        if reason := refusal(error):
            raise RunFolderError(
                f"{path}: cannot be read ({reason}); the checkpoint may be whole: see whether its disk and its "
                "permissions are in order"
            ) from error
        raise RunFolderError(f"{path}: not a readable checkpoint ({error}); train this run again") from error


def _spelled_now(key: str) -> str:
    """A key of the state; those of the optimizer were once spelled `optimiser/...`."""
    return key.replace("optimiser/", "optimizer/", 1) if key.startswith("optimiser/") else key
