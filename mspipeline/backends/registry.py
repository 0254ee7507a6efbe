"""The table of backends. Nothing is imported before one is asked for; an absent one says what brings it.

Packages add backends by the entry point group `mspipeline.backends`: a `BackendEntry`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass

from mspipeline.backends.base import Backend
from mspipeline.errors import BackendError
from mspipeline.plugins import Registry, instance_of


@dataclass(frozen=True)
class BackendEntry:
    """adapter: `module:class`. distributions: the packages it needs, the framework first, as (import, distribution)."""

    adapter: str
    distributions: tuple[tuple[str, tuple[str, ...]], ...]
    remedy: str


_BUILT_IN = {
    "tensorflow": BackendEntry(
        "mspipeline.backends.keras.tensorflow:TensorFlowBackend",
        (("tensorflow", ("tensorflow", "tensorflow-cpu")), ("keras", ("keras",))),
        "pip install 'mspipeline[tensorflow]'",
    ),
    "torch": BackendEntry(
        "mspipeline.backends.keras.torch:TorchBackend",
        (("torch", ("torch",)), ("keras", ("keras",))),
        "pip install 'mspipeline[torch]'",
    ),
    "jax": BackendEntry(
        "mspipeline.backends.keras.jax:JaxBackend",
        (("jax", ("jax",)), ("keras", ("keras",))),
        "pip install 'mspipeline[jax]'",
    ),
    "pyeddl": BackendEntry(
        "mspipeline.backends.eddl.backend:EddlBackend",
        (("pyeddl", ("pyeddl",)),),
        "build EDDL and compile PyEDDL as docs/guide.md says, section PyEDDL (there is no wheel)",
    ),
    "onnxruntime": BackendEntry(
        "mspipeline.backends.onnxruntime:OnnxRuntimeBackend",
        (("onnxruntime", ("onnxruntime", "onnxruntime-gpu")), ("onnx", ("onnx",))),
        "pip install 'mspipeline[onnx]'",
    ),
}


BACKENDS = Registry("backend", "mspipeline.backends", _BUILT_IN, instance_of(BackendEntry))


@dataclass(frozen=True)
class Availability:
    """version: of the framework, where it is installed. problem: what is missing and what brings it, else empty."""

    version: str | None
    problem: str = ""


def availability(name: str) -> Availability:
    """Whether a backend's packages are installed here; no framework is loaded. Raises ConfigError for unknown names."""
    entry = BACKENDS[name]
    missing = [module for module, _ in entry.distributions if importlib.util.find_spec(module) is None]
    if missing:
        return Availability(None, f"backend {name} needs {', '.join(missing)}, not installed here; {entry.remedy}")
    return Availability(_version(entry.distributions[0][1]))


def adapter(name: str) -> type[Backend]:
    """The adapter's class, its framework not yet loaded. Raises ConfigError for unknown names."""
    module, _, attribute = BACKENDS[name].adapter.partition(":")
    found: type[Backend] = getattr(importlib.import_module(module), attribute)
    return found


def create(name: str) -> Backend:
    """A new backend. Raises BackendError where its packages are absent, with what brings them."""
    if problem := availability(name).problem:
        raise BackendError(problem)
    return adapter(name)()


def _version(distributions: tuple[str, ...]) -> str:
    for distribution in distributions:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


def probe(name: str) -> str:
    """Load a backend and run one tiny network through it: what `mspipeline doctor` tries. Returns the device."""
    import numpy as np

    from mspipeline.backends.base import Execution
    from mspipeline.network.graph import Builder
    from mspipeline.network.ops import Input, Sigmoid

    builder = Builder("probe")
    backend = create(name)
    backend.build(builder.graph(builder.add("out", Sigmoid(), builder.add("image", Input((2, 2, 1))))), Execution())
    backend.predict(np.zeros((1, 2, 2, 1), np.float32))
    return backend.device
