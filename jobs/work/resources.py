"""What this process may use, and how it predicts with it."""

from __future__ import annotations

import os

from mspipeline.backends.base import Execution
from mspipeline.config import EvaluateJob, PredictJob
from mspipeline.recipes.prediction import PredictionSettings
from mspipeline.telemetry.allocation import own_cpus
from mspipeline.training.protocols import Stop


def threads_for(wanted: int) -> int:
    """The number of threads for a framework: `wanted`, or for 0 every core that is this process's own."""
    return wanted or own_cpus(os.environ)


def prediction_settings(job: EvaluateJob | PredictJob, stop: Stop) -> PredictionSettings:
    """How a job wants its predictions made."""
    return PredictionSettings(
        job.checkpoint,
        Execution(job.device, threads_for(job.threads)),
        batch_size=job.batch_size,
        inference=job.inference,
        memory_budget_mb=job.memory_budget_mb,
        stop=stop,
    )
