"""What works on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.text import Text

from mspipeline.commands.display.table import print_json
from mspipeline.console import stdout

if TYPE_CHECKING:
    from mspipeline.campaigns.finding import Finding


def print_findings(findings: Sequence[Finding], *, as_json: bool) -> None:
    """What `doctor` found: a line each, with what to do where something is missing."""
    if as_json:
        print_json([asdict(finding) for finding in findings])
        return
    for finding in findings:
        style = {"ok": "green", "missing": "yellow", "warning": "yellow", "broken": "bold red"}[finding.state]
        stdout.print(Text.assemble((f"{finding.state:7}", style), f" {finding.what}: {finding.detail}"))
        if finding.remedy:
            stdout.print(f"        -> {finding.remedy}")
