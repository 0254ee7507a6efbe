"""Commands about networks: what they are, whether backends agree on them, where they go and come from."""

from __future__ import annotations

from typing import Annotated

import typer

from mspipeline.commands.app import Json, app
from mspipeline.errors import UsageError


@app.command(epilog="example: mspipeline models --json")
def models(
    name: Annotated[str | None, typer.Argument(help="One network instead of all.", show_default=False)] = None,
    table: Annotated[bool, typer.Option("--table", help="Its nodes: shape, parameters, work, activations.")] = False,
    as_json: Json = False,
) -> None:
    """List the networks, or the nodes of one. Parameters, multiply-accumulates, activations, backends."""
    from mspipeline.display import print_models, print_nodes

    if not table:
        print_models(name, as_json=as_json)
    elif name is None:
        raise UsageError("--table needs the name of a network: `mspipeline models unet2d --table`, for instance")
    else:
        print_nodes(name, as_json=as_json)
