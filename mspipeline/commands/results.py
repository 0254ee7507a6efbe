"""Commands that turn run folders into tables and a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mspipeline.commands.app import Json, app


@app.command(epilog="example: mspipeline collect runs/ -o tables/")
def collect(
    runs: Annotated[Path, typer.Argument(help="Folder with run folders or campaigns below it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the tables.")] = Path("tables"),
    as_json: Json = False,
) -> None:
    """Merge run folders into Parquet tables: runs, epochs, cases, lesions, samples."""
    from mspipeline.collect.tables import collect as collect_runs
    from mspipeline.commands.display import print_tables
    from mspipeline.console import stderr

    if (runs / "campaign.json").exists():
        _add_gaps(runs)
    collected = collect_runs(runs, output)
    print_tables(collected.tables, output, as_json=as_json)
    for note in collected.notes:
        stderr.print(f"left out: {note}")
    collected.check()


def _add_gaps(folder: Path) -> None:
    """Give the cells of a campaign that never began their rows. Raises TableError where no cell has begun or failed."""
    from mspipeline.campaigns.campaign import Campaign
    from mspipeline.campaigns.gaps import write_gaps
    from mspipeline.collect.tables import find_runs
    from mspipeline.commands.display.campaigns import summary
    from mspipeline.console import stderr
    from mspipeline.errors import StorageError, TableError

    campaign = Campaign.open(folder)
    try:
        write_gaps(campaign)
    except StorageError as error:  # somebody else's campaign: what there is can be read all the same
        stderr.print(f"without the cells that never began: {error}")
    if next(find_runs(folder), None) is None:
        remedy = f"`mspipeline resume {folder}` runs them" if not campaign.followed() else "wait for the first"
        raise TableError(f"{folder}: no cell has begun yet ({summary(campaign.state())}); {remedy}")


@app.command(epilog="example: mspipeline report tables/ -o report.html")
def report(
    tables: Annotated[Path, typer.Argument(help="Folder made by `mspipeline collect`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Its title.")] = "Segmentation benchmark",
    as_json: Json = False,
) -> None:
    """Write the comparison as a page."""
    from mspipeline.commands.display import print_comparison
    from mspipeline.report.page import write_page
    from mspipeline.report.summary import summarise
    from mspipeline.report.tables import load_tables

    write_page(tables, output, title)
    print_comparison(summarise(load_tables(tables)), output, as_json=as_json)
