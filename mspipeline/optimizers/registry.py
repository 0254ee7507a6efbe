"""The tables of optimizers and of schedules by name: where a configuration's words become settings.

Packages add to them by the entry point groups `mspipeline.optimizers` and `mspipeline.schedules`: subclasses of
`Optimizer` and `Schedule`, whose settings are keys that a configuration has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from mspipeline.optimizers.adadelta import Adadelta
from mspipeline.optimizers.adam import Adam
from mspipeline.optimizers.constant import Constant
from mspipeline.optimizers.cosine import Cosine
from mspipeline.optimizers.optimizer import Optimizer
from mspipeline.optimizers.poly import Poly
from mspipeline.optimizers.schedule import Schedule
from mspipeline.optimizers.sgd import Sgd
from mspipeline.optimizers.step import Step
from mspipeline.plugins import Registry, subclass_of

OPTIMIZERS: Registry[type[Optimizer]] = Registry(
    "optimizer", "mspipeline.optimizers", {each.name: each for each in (Adam, Sgd, Adadelta)}, subclass_of(Optimizer)
)
"""The optimizers by name."""
SCHEDULES: Registry[type[Schedule]] = Registry(
    "schedule",
    "mspipeline.schedules",
    {each.name: each for each in (Constant, Cosine, Poly, Step)},
    subclass_of(Schedule),
)
"""The schedules by name."""


def setting_names(kind: type[Optimizer] | type[Schedule]) -> tuple[str, ...]:
    """What can be set of an optimizer or of a schedule, in its order.

    >>> setting_names(Step)
    ('step_factor', 'step_epochs')
    """
    return tuple(each.name for each in fields(kind))  # type: ignore[arg-type]


def make_optimizer(name: str, given: Mapping[str, Any]) -> Optimizer:
    """An optimizer with these settings, those that are None or not its own left out.

    Raises ConfigError for a name that is not in the table.

    >>> make_optimizer("sgd", {"momentum": 0.9, "beta1": None}).momentum
    0.9
    """
    return OPTIMIZERS[name](**_own(OPTIMIZERS[name], given))


def make_schedule(name: str, given: Mapping[str, Any]) -> Schedule:
    """A schedule with these settings, those that are None or not its own left out; raises as `make_optimizer`."""
    return SCHEDULES[name](**_own(SCHEDULES[name], given))


def _own(kind: type[Optimizer] | type[Schedule], given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: given[key] for key in setting_names(kind) if given.get(key) is not None}
