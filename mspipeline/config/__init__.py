"""Configuration: frozen, complete before work starts. `strict` reads it, `training` and `jobs` have its keys.

May import: pydantic; `errors`, `files`, `losses`, `optimizers`, `plugins`.
"""

from mspipeline.config.jobs import (
    CertifyJob,
    CollectJob,
    Device,
    EvaluateJob,
    Inference,
    ModelSettings,
    PredictJob,
    PrepareJob,
    SplitSettings,
    TrainJob,
)
from mspipeline.config.strict import Scalar, Settings, Strict, parse, parse_assignments, read_config
from mspipeline.config.training import CascadeTraining, TrainingSettings

__all__ = [
    "CascadeTraining",
    "CertifyJob",
    "CollectJob",
    "Device",
    "EvaluateJob",
    "Inference",
    "ModelSettings",
    "PredictJob",
    "PrepareJob",
    "Scalar",
    "Settings",
    "SplitSettings",
    "Strict",
    "TrainJob",
    "TrainingSettings",
    "parse",
    "parse_assignments",
    "read_config",
]
