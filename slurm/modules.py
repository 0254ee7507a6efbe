"""Lines of a batch script that load a site's modules and end the job, with the reason, where one does not load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

NOT_BEGUN = "error: the job ended before its work began: "
"""Start of the line that such a job ends with; a campaign shows it as the reason and does not run the cell again."""
CODE = 78
"""Of ConfigError: the site file names a module that the node does not have."""
_LOAD = f"""\
load_or_end() {{
    local output
    if output=$("$@" 2>&1) && [[ $output != *:ERROR:* ]]; then "$@"; return; fi
    output=${{output//$'\\n'/ }}
    echo "{NOT_BEGUN}\\`$*\\` failed on ${{SLURMD_NODENAME:-$HOSTNAME}} ($output); correct modules in the site file" >&2
    exit {CODE}
}}"""


def strict_lines(modules: Sequence[str]) -> list[str]:
    """The site's modules and none of the submitting shell's; a failure ends the shell with CODE.

    Each is loaded twice, first in a shell of its own for its message. Modules 3.2 ends with 0 where it fails, and
    writes `:ERROR:`.
    """
    return [_LOAD, *(f"load_or_end {line}" for line in plain_lines(modules))] if modules else []


def plain_lines(modules: Sequence[str]) -> list[str]:
    """The same lines as somebody would type them, whatever becomes of them.

    >>> plain_lines(["gcc/12.2"])
    ['module purge', 'module load gcc/12.2']
    """
    return ["module purge", *(f"module load {name}" for name in modules)] if modules else []


def refusal_in(log: Path) -> str:
    """Why the job of this log ended before its work began; empty where it did not, or where the log cannot be read."""
    try:
        last = log.read_text(encoding="utf-8", errors="replace").rstrip().rpartition("\n")[2]
    except OSError:
        return ""
    return last.removeprefix("error: ") if last.startswith(NOT_BEGUN) else ""
