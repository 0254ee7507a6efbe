"""Commands about this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from mspipeline.commands.app import Json, app


@app.command(epilog="example: mspipeline doctor --site mysite.toml --probe")
def doctor(
    site: Annotated[str, typer.Option(help="Built-in site or TOML file.")] = "local",
    probe: Annotated[bool, typer.Option("--probe", help="Start a job of ten seconds on each partition.")] = False,
    as_json: Json = False,
) -> None:
    """Say what works here and what is missing, and hold a site against its live cluster.

    It ends with exit code 78 where anything is broken.
    """
    from mspipeline.commands.display import print_findings
    from mspipeline.doctor import examine
    from mspipeline.errors import ConfigError

    findings = examine(site, probe=probe)
    print_findings(findings, as_json=as_json)
    broken = [finding.what for finding in findings if finding.state == "broken"]
    if broken:
        raise ConfigError(f"doctor: broken: {', '.join(broken)}; do what the lines above say")
