"""The schedulers that there are, by the `executor` of a site. A scheduler is loaded when a site asks for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mspipeline.campaigns.scheduler import Scheduler
from mspipeline.errors import ConfigError
from mspipeline.plugins import Registry

BUILT_IN = {
    "local": "mspipeline.campaigns.local:Local",
    "slurm": "mspipeline.slurm.scheduler:Slurm",
}
"""`module:class` by executor. Those of other packages are entry points of the group `mspipeline.schedulers`."""


def _load(target: str) -> Scheduler:
    module, _, name = target.partition(":")
    scheduler: Scheduler = getattr(import_module(module), name)()
    return scheduler


def _accept(name: str, found: Any) -> Callable[[], Scheduler]:
    """A class that an entry point names. Raises ValueError where it is no scheduler, or lacks a method."""
    if not (isinstance(found, type) and issubclass(found, Scheduler)):
        raise ValueError("not a subclass of mspipeline.campaigns.scheduler.Scheduler")
    lacking = sorted(getattr(found, "__abstractmethods__", ()))
    if lacking:
        raise ValueError(f"lacks {', '.join(lacking)}")
    return found


SCHEDULERS: Registry[Callable[[], Scheduler]] = Registry(
    "scheduler",
    "mspipeline.schedulers",
    {name: partial(_load, target) for name, target in BUILT_IN.items()},
    _accept,
)


@cache
def scheduler_named(executor: str) -> Scheduler:
    """The scheduler of this name, one for the whole process. Raises ConfigError where there is none that works."""
    if executor not in SCHEDULERS:
        raise ConfigError(f"executor: input should be {' or '.join(map(repr, SCHEDULERS))}, not {executor!r}")
    return SCHEDULERS[executor]()


def site_folders() -> list[Path]:
    """Folders of built-in site files: `sites/` beside each scheduler of the suite. Loads none of them."""
    found = []
    for target in BUILT_IN.values():
        spec = find_spec(target.partition(":")[0].rpartition(".")[0])
        for folder in (spec and spec.submodule_search_locations) or ():
            found.append(Path(folder) / "sites")
    return [folder for folder in found if folder.is_dir()]
