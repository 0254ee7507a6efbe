"""How quickly the command line answers, against a bare interpreter.

The bound of `--help` is a limit in seconds, 0.4, put as a ratio to the bare interpreter's own start.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from mspipeline.benchmarks.micro.result import Result, main

REPEATS = 15
HELP_LIMIT_S = 0.4

COMMANDS = {
    "bare": [sys.executable, "-c", "pass"],
    "import": [sys.executable, "-c", "import mspipeline"],
    "help": [str(Path(sys.executable).with_name("mspipeline")), "--help"],
}


def measure() -> list[Result]:
    """Medians of interleaved starts, in processes of their own."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(REPEATS):
        for name, command in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - began)
    bare, imported, helped = (statistics.median(times[name]) for name in COMMANDS)
    return [
        Result("import mspipeline", "python -c pass", bare / imported, 0.5, f"{imported:.3f} s against {bare:.3f} s"),
        Result(
            "mspipeline --help", "python -c pass", bare / helped, bare / HELP_LIMIT_S, f"{helped:.3f} s, limit 0.4 s"
        ),
    ]


if __name__ == "__main__":
    main(measure, __doc__)
