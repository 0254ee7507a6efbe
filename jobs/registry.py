"""The jobs by name: each file of this folder that ends in `JOB = Job(...)`, then those of packages.

Packages add jobs by the entry point group `mspipeline.jobs`: a `Job`, loaded when it is asked for.
"""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module
from typing import Any

from mspipeline import jobs
from mspipeline.config import Strict
from mspipeline.jobs.job import Job
from mspipeline.plugins import Registry, instance_of

AnyJob = Job[Any]
_FRAME = ("__main__", "job", "registry")
"""Modules of this folder that are no job."""
SUPERVISE = "supervise"
"""Stands before a job's name on the command line, so that no job can be called so."""


def _own() -> dict[str, AnyJob]:
    names = [module.name for module in pkgutil.iter_modules(jobs.__path__) if not module.ispkg]
    return {name: import_module(f"{jobs.__name__}.{name}").JOB for name in sorted(names) if name not in _FRAME}


def _accept(name: str, made: Any) -> AnyJob:
    job: AnyJob = instance_of(Job)(name, made)
    if job.name != name:
        raise ValueError(f"its name is {job.name!r}, expected the name of its entry point, {name!r}")
    if name == SUPERVISE:
        raise ValueError(f"{SUPERVISE!r} stands before a job's name; choose another")
    if not (inspect.isclass(job.schema) and issubclass(job.schema, Strict)):
        raise ValueError(f"its schema is {job.schema!r}, expected a subclass of {Strict.__module__}.{Strict.__name__}")
    if not callable(job.run):
        raise ValueError(f"its run is {job.run!r}, expected a function of its settings and a JobContext")
    return job


JOBS: Registry[AnyJob] = Registry("job", "mspipeline.jobs", _own(), _accept)
