"""Commands of a sweep."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mspipeline.commands.app import Json, app

Uncertified = Annotated[
    bool, typer.Option("--uncertified", help="Compare backends without proof that their networks are the same.")
]


@app.command(epilog="example: mspipeline sweep benchmarks/suites/demo.toml --shards shards/ -o sweeps/demo")
def sweep(
    file: Annotated[Path, typer.Argument(help="Sweep file.")],
    shards: Annotated[Path, typer.Option(help="Folder made by `mspipeline prepare`.")] = Path("shards"),
    output: Annotated[Path | None, typer.Option("--output", "-o", help="[default: sweeps/NAME]")] = None,
    site: Annotated[str, typer.Option(help="Built-in site or TOML file.")] = "local",
    uncertified: Uncertified = False,
) -> None:
    """Train and evaluate the cells of a sweep, backends certified first. Run again, or `resume`, to continue."""
    from mspipeline.backends.registry import availability
    from slurm.campaign import Campaign
    from slurm.site import load_site
    from slurm.sweep import load_sweep

    loaded = load_sweep(file)
    for backend in loaded.matrix.backend:
        availability(backend)  # an unknown name is refused now; one that is not installed is a cell that fails
    folder = output or Path("sweeps") / loaded.name
    _follow(Campaign.create(folder, loaded, shards, load_site(site)), uncertified=uncertified)


@app.command(epilog="example: mspipeline status sweeps/demo")
def status(
    campaign: Annotated[Path, typer.Argument(help="Campaign folder.")],
    as_json: Json = False,
) -> None:
    """Show how far a sweep is, cell by cell."""
    from mspipeline.display import print_states
    from slurm.campaign import Campaign

    print_states(Campaign.open(campaign).state(), as_json=as_json)


@app.command(epilog="example: mspipeline resume sweeps/demo --retry-failed")
def resume(
    campaign: Annotated[Path, typer.Argument(help="Campaign folder.")],
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed cells again too.")] = False,
    uncertified: Uncertified = False,
) -> None:
    """Run what a sweep has not done yet. Cells that are done are not run again."""
    from slurm.campaign import Campaign

    _follow(Campaign.open(campaign), retry_failed=retry_failed, uncertified=uncertified)


@app.command(epilog="example: mspipeline cancel sweeps/demo")
def cancel(campaign: Annotated[Path, typer.Argument(help="Campaign folder.")]) -> None:
    """Stop a sweep, the state of its cells saved."""
    from slurm.campaign import Campaign

    Campaign.open(campaign).cancel()


def _follow(campaign: Any, *, retry_failed: bool = False, uncertified: bool = False) -> None:
    """Run a campaign to its end with a live table, after the certificates that it lacks."""
    from jobs.sweep_certificates import certify_campaign
    from mspipeline.console import CaseProgress, stderr
    from mspipeline.display import LiveStates

    if not uncertified:
        with CaseProgress("certify", enabled=sys.stderr.isatty()) as report:
            outcomes = certify_campaign(campaign, report=report)
        for each in outcomes:
            if each.certificate is not None:
                stderr.print(f"{each.backend} {each.state}: {each.file}")
    with LiveStates() as states:
        ended = campaign.run(states, retry_failed=retry_failed)
    for problem in dict.fromkeys(each.message for each in ended if each.state == "absent"):
        cells = [each.id for each in ended if each.state == "absent" and each.message == problem]
        stderr.print(f"left out: {', '.join(cells)}: {problem}")
