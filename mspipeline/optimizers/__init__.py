"""What decides a step's update beside the gradient: optimizers, schedules of the learning rate, clipping by norm.

optimizer.py           what an optimizer is: settings, names of its slots, one update rule over `arrays`
adam.py, sgd.py, adadelta.py  one optimizer each
schedule.py            what a schedule is, and the warm-up before each
constant.py, cosine.py, poly.py, step.py  one schedule each
registry.py            the tables by name: a new optimizer or schedule is its file and a line there
clipping.py, numpy_steps.py  a gradient's norm bounded; updates in place on NumPy's arrays

May import: NumPy; `arrays`, `errors`, `plugins`.
"""

from mspipeline.optimizers.adadelta import Adadelta
from mspipeline.optimizers.adam import Adam
from mspipeline.optimizers.optimizer import Optimizer
from mspipeline.optimizers.registry import OPTIMIZERS, SCHEDULES, make_optimizer, make_schedule, setting_names
from mspipeline.optimizers.schedule import Schedule, learning_rate
from mspipeline.optimizers.sgd import Sgd

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "Adadelta",
    "Adam",
    "Optimizer",
    "Schedule",
    "Sgd",
    "learning_rate",
    "make_optimizer",
    "make_schedule",
    "setting_names",
]
