"""Commands about this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from mspipeline.commands.app import Json, app


@app.command(epilog="example: mspipeline doctor")
def doctor(
    site: Annotated[str, typer.Option(help="Built-in site or TOML file.")] = "local",
    as_json: Json = False,
) -> None:
    """Say what works here and what is missing."""
    from mspipeline.display import print_findings
    from mspipeline.doctor import examine

    print_findings(examine(site), as_json=as_json)
