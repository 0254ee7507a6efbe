"""Options of sbatch that a site file may give: their names, and those that other keys of the file stand for."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mspipeline.config import Scalar
from mspipeline.errors import ConfigError, nearest

FLAGS = frozenset({"contiguous", "hold", "overcommit", "oversubscribe", "reboot", "spread-job", "use-min-nodes"})
"""Those that take no value."""
EITHER = frozenset({"exclusive", "nice", "no-kill", "propagate"})
"""Those that may stand with a value or without."""
# fmt: off
VALUES = frozenset((
    "acctg-freq", "bb", "bbf", "begin", "cluster-constraint", "comment", "constraint", "core-spec",
    "cores-per-socket", "cpu-freq", "deadline", "delay-boot", "distribution", "exclude", "export", "extra",
    "extra-node-info", "gpu-bind", "gpu-freq", "gres-flags", "hint", "licenses", "mail-type", "mail-user",
    "mcs-label", "mem-bind", "mincpus", "network", "nodefile", "nodelist", "ntasks-per-core", "ntasks-per-socket",
    "power", "prefer", "priority", "profile", "reservation", "segment", "sockets-per-node", "switches", "thread-spec",
    "threads-per-core", "time-min", "tmp", "tres-bind", "tres-per-task", "wckey",
))
# fmt: on
"""Those that need a value, of SLURM 22.05 to 25.05. A newer one is a word here."""
WHERE = ("comment", "constraint", "exclude", "licenses", "network", "nodelist", "prefer", "reservation", "wckey")
"""Those that decide whether and where a job starts: the probe's jobs ask for them as well."""
OTHERWISE = {
    "account": "set `account`",
    "array": "cells are an array already; set `max_parallel` for how many run at a time",
    "chdir": "cells work in their run folders",
    "clusters": "cells are submitted to the cluster of this shell; start the sweep on the other one",
    "container": "set `container` and [images]",
    "cpus-per-gpu": "set `cpus`",
    "cpus-per-task": "set `cpus`",
    "dependency": "the sweep sets it",
    "error": "logs are in the campaign's folder",
    "gpus": "set `gres`",
    "gpus-per-node": "set `gres`",
    "gpus-per-socket": "set `gres`",
    "gpus-per-task": "set `gres`",
    "gres": "set `gres`",
    "input": "a cell reads no input",
    "job-name": "jobs have the name of the sweep",
    "kill-on-invalid-dep": "the sweep sets it",
    "mem": "set `mem_gb`",
    "mem-per-cpu": "set `mem_gb`",
    "mem-per-gpu": "set `mem_gb`",
    "no-requeue": "a cell that is preempted goes on later; set `tries` for how often it may die",
    "nodes": "set `processes` in the sweep",
    "ntasks": "set `processes` in the sweep",
    "ntasks-per-gpu": "set `processes` in the sweep",
    "ntasks-per-node": "set `processes` in the sweep",
    "open-mode": "logs are in the campaign's folder",
    "output": "logs are in the campaign's folder",
    "partition": "name it as [partitions.NAME]",
    "qos": "set `qos`",
    "requeue": "a cell that is preempted goes on later by itself",
    "signal": "set `warn_s`",
    "time": "set `time_min`",
}
"""Options that the product gives by itself or whose effect it relies on, with what to do instead."""

Options = Mapping[str, Scalar]


def check(options: Options) -> None:
    """Check options that are written in sbatch's own spelling, `mail-user`.

    Raises ConfigError for a name that sbatch does not have, one that another key of the site file stands for, and a
    value where none belongs or none where one does. `false` is allowed for each: the option is left out.
    """
    for name, value in options.items():
        written = name.replace("-", "_")
        if name in OTHERWISE:
            raise ConfigError(f"sbatch.{written} is not for the site file: {OTHERWISE[name]}")
        if name not in FLAGS | EITHER | VALUES:
            valid = [each.replace("-", "_") for each in FLAGS | EITHER | VALUES]
            raise ConfigError(f"unknown sbatch option {written!r}; {nearest(written, valid)}")
        if value is True and name in VALUES:
            raise ConfigError(f"sbatch.{written} = true, but sbatch needs a value for it; write one")
        if not isinstance(value, bool) and name in FLAGS:
            raise ConfigError(f"sbatch.{written} = {value!r}, but it takes no value; write true or leave it out")
        if value == "" or re.search(r"[\x00-\x1f]", str(value)):
            raise ConfigError(f"sbatch.{written} = {value!r} is empty or has a line's end in it; write it on one line")


def words_of(options: Options) -> list[str]:
    """The options as words of a command line.

    >>> words_of({"exclusive": True, "constraint": "t4", "hold": False})
    ['--exclusive', '--constraint=t4']
    """
    return [
        f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items() if value is not False
    ]
