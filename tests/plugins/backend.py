"""A backend of another package: TensorFlow's, under another name."""

from __future__ import annotations

from mspipeline.backends.keras.tensorflow import TensorFlowBackend
from mspipeline.backends.registry import BackendEntry


class RenamedBackend(TensorFlowBackend):
    """What a site would change: how its accelerator is asked for, say."""


RENAMED = BackendEntry(
    "backend:RenamedBackend", (("tensorflow", ("tensorflow-cpu", "tensorflow")),), "pip install example-plugins"
)
