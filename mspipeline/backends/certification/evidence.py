"""Evidence: what one backend made of a trial, and how much rounding alone changes that, as a file between processes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.backends.base import Backend, Execution, FloatArray
from mspipeline.backends.certification.node_errors import Errors, gradient_errors, loss_error
from mspipeline.backends.certification.trial import Trial, shaken
from mspipeline.errors import DataError
from mspipeline.files import whole_file
from mspipeline.network.weights import Weights

VALUES_A_NODE = 2**18
"""Activations of one node that are kept; of a larger one, one from each of as many equal stretches."""


@dataclass(frozen=True)
class Sensitivity:
    """What shaking weights and pixels by some roundings changes, measured as `node_errors` and as backends are."""

    loss: float
    gradient: Errors


@dataclass(frozen=True)
class Evidence:
    """What one backend made of a trial.

    device: as the framework names it. versions: of the framework and what lies below. activations: by node in inference
    mode, flat, at `kept_values`. losses, gradients: of each batch in training mode, before any step. stepped: by
    optimizer, every weight after one training step.
    """

    backend: str
    device: str
    versions: dict[str, str]
    activations: Mapping[str, FloatArray]
    losses: tuple[float, ...]
    gradients: tuple[Weights, ...]
    stepped: dict[str, Weights]
    sensitivity: Sensitivity


def gather(backend: Backend, trial: Trial, execution: Execution, versions: dict[str, str]) -> Evidence:
    """Let a new backend compute the trial, shaken and itself.

    Raises BackendError where it cannot have the graph, ConfigError where its loss does not fit.
    """
    backend.build(trial.graph, execution)
    backend.set_weights(trial.weights)
    backend.compile(trial.loss, trial.optimizers[0])
    other = shaken(trial)
    backend.set_weights(other.weights)
    disturbed = [backend.trace(batch.images, batch.masks, ()) for batch in other.batches]
    backend.set_weights(trial.weights)
    first = trial.batches[0]
    traces = [backend.trace(first.images, first.masks, trial.nodes)]
    traces += [backend.trace(batch.images, batch.masks, ()) for batch in trial.batches[1:]]
    stepped = {}
    for number, optimizer in enumerate(trial.optimizers):
        if number:  # the first is compiled, and has the trial's weights
            backend.compile(trial.loss, optimizer)
            backend.set_weights(trial.weights)
        backend.train_step(first.images, first.masks)
        stepped[optimizer.name] = backend.weights()
    losses, gradients = tuple(trace.loss for trace in traces), tuple(trace.gradients for trace in traces)
    return Evidence(
        backend.name,
        backend.device,
        versions,
        {name: values.ravel()[kept_values(values.size)] for name, values in traces[0].activations.items()},
        losses,
        gradients,
        stepped,
        Sensitivity(
            loss_error(losses, [trace.loss for trace in disturbed]),
            gradient_errors(trial.graph, gradients, [trace.gradients for trace in disturbed]),
        ),
    )


def kept_values(size: int) -> slice | npt.NDArray[np.int64]:
    """Which of a node's values are kept, the same ones in every backend."""
    if size <= VALUES_A_NODE:
        return slice(None)
    edges = np.linspace(0, size, VALUES_A_NODE + 1).astype(np.int64)
    places = np.random.default_rng(size).random(VALUES_A_NODE)  # equal strides would see some columns alone
    chosen: npt.NDArray[np.int64] = edges[:-1] + (places * np.diff(edges)).astype(np.int64)
    return chosen


def write_evidence(path: Path, evidence: Evidence) -> None:
    """One .npz file, whole or not at all."""
    header = {
        "backend": evidence.backend,
        "device": evidence.device,
        "versions": evidence.versions,
        "losses": evidence.losses,
        "optimizers": list(evidence.stepped),
        "sensitivity": vars(evidence.sensitivity),
    }
    arrays: dict[str, npt.NDArray[Any]] = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8)}
    arrays |= {f"activation:{node}": values for node, values in evidence.activations.items()}
    by_kind = {f"step {name}": weights for name, weights in evidence.stepped.items()}
    by_kind |= {str(number): weights for number, weights in enumerate(evidence.gradients)}
    for kind, weights in by_kind.items():
        arrays |= {f"{kind}:{node}:{name}": values for (node, name), values in weights.items()}
    with whole_file(path) as partial, partial.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)


def read_evidence(path: Path) -> Evidence:
    """What `write_evidence` wrote. Raises DataError where the file is not such."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            header = json.loads(arrays["header"].tobytes())
            batches = [str(number) for number in range(len(header["losses"]))]
            steps = {f"step {name}": name for name in header["optimizers"]}
            parts: dict[str, dict[Any, Any]] = {kind: {} for kind in ("activation", *steps, *batches)}
            for name in set(arrays.files) - {"header"}:
                kind, *key = name.split(":")
                parts[kind][key[0] if kind == "activation" else tuple(key)] = arrays[name]
            return Evidence(
                header["backend"],
                header["device"],
                header["versions"],
                parts["activation"],
                tuple(header["losses"]),
                tuple(parts[batch] for batch in batches),
                {name: parts[kind] for kind, name in steps.items()},
                Sensitivity(**header["sensitivity"]),
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a backend's evidence ({error}); certify again") from error
