"""Commands of a sweep."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mspipeline.commands.app import Json, Settings, app
from mspipeline.errors import BackendError, ConfigError, DatasetError, SuiteError, UsageError

Uncertified = Annotated[
    bool, typer.Option("--uncertified", help="Compare backends without proof that their networks are the same.")
]


@app.command(epilog="example: mspipeline sweep benchmarks/suites/demo.toml --shards shards/ -o sweeps/demo")
def sweep(
    file: Annotated[Path, typer.Argument(help="Sweep file.")],
    shards: Annotated[
        Path | None,
        typer.Option(help="Folder made by `mspipeline prepare`. [default: shards; with --data OUTPUT/shards]"),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="[default: sweeps/NAME]")] = None,
    site: Annotated[str, typer.Option(help="Built-in site or TOML file.")] = "local",
    data: Annotated[Path | None, typer.Option(help="Scans to prepare first, instead of shards that are there.")] = None,
    recipe: Annotated[str, typer.Option(help="Recipe for --data.")] = "slices2d",
    settings: Settings = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan, write OUTPUT/dry-run/*.sh, run nothing.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="On SLURM: submit everything and leave.")] = False,
    tables: Annotated[bool, typer.Option("--collect/--no-collect", help="Make OUTPUT/tables in the end.")] = True,
    uncertified: Uncertified = False,
    as_json: Json = False,
) -> None:
    """Train and evaluate the cells of a sweep, backends certified first. Run again, or `resume`, to continue.

    With --data it begins with the scans. --set gives values of their recipe.
    """
    from mspipeline.backends.registry import availability
    from mspipeline.campaigns.campaign import Campaign, refuse_to_detach
    from mspipeline.campaigns.plan import plan
    from mspipeline.campaigns.schedulers import scheduler_named
    from mspipeline.campaigns.scripts import write_scripts
    from mspipeline.campaigns.site_file import load_site
    from mspipeline.campaigns.sweep import load_sweep
    from mspipeline.commands.display.plan import print_plan
    from mspipeline.config import PrepareJob, parse_assignments
    from mspipeline.recipes.catalogue import load_recipe

    loaded = load_sweep(file)
    for backend in loaded.matrix.backend:
        availability(backend)  # an unknown name is refused now; one that is not installed is a cell that fails
    chosen = load_site(site)
    if detach:
        refuse_to_detach(chosen)
    folder = output or Path("sweeps") / loaded.name
    prepare = resolved = None
    if data is not None:
        if not data.is_dir():
            raise DatasetError(f"{data}: no such folder of scans; name a BIDS dataset, as `mspipeline phantom` makes")
        shards = shards or folder / "shards"
        resolved = load_recipe(recipe, parse_assignments(settings or []))
        kept_at = (folder / "recipe.json").resolve()
        prepare = PrepareJob(dataset=data.resolve(), output=shards.resolve(), recipe=str(kept_at))
    elif settings or recipe != PrepareJob.model_fields["recipe"].default:
        raise UsageError("--recipe and --set are for --data; shards that are there keep the recipe they were made by")
    kept: dict[str, Any] = {"prepare": prepare, "collect": tables, "recipe": resolved}
    draft = Campaign.draft(folder, loaded, shards or Path("shards"), chosen, **kept)
    if resolved is not None:
        _keep_recipe(kept_at, resolved.document)
    if dry_run:
        print_plan(plan(draft), as_json=as_json, scripts=write_scripts(draft), dry_run=True)
        return
    scheduler_named(chosen.executor).check(chosen, loaded.matrix.backend)
    print_plan(plan(draft), as_json=as_json)
    campaign = Campaign.create(folder, loaded, shards or Path("shards"), chosen, **kept)
    _follow(campaign, uncertified=uncertified, detach=detach)


def _keep_recipe(path: Path, recipe: dict[str, Any]) -> None:
    """Keep a campaign's recipe as resolved, so that its preparation reads it wherever it runs.

    Raises ConfigError where the campaign has another one.
    """
    from mspipeline.files import read_json, write_json

    if path.exists():
        there = read_json(path, what="recipe", remedy="remove it")
        changed = [key for key in {**there, **recipe} if there.get(key) != recipe.get(key)]
        if changed:
            raise ConfigError(
                f"{path}: another recipe (it differs in {', '.join(changed)}); choose another output folder"
            )
        return
    write_json(path, recipe)


@app.command(epilog="example: mspipeline resume sweeps/demo --retry-failed")
def resume(
    campaign: Annotated[Path, typer.Argument(help="Campaign folder.")],
    cells: Annotated[
        list[str] | None, typer.Argument(metavar="[CELL]...", help="These alone, failed ones too.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed cells again too.")] = False,
    uncertified: Uncertified = False,
) -> None:
    """Run what a sweep has not done yet. Cells that are done are not run again, those that run still are followed."""
    from mspipeline.campaigns.campaign import Campaign
    from mspipeline.campaigns.logs import find_cell

    opened = Campaign.open(campaign)
    only = [find_cell(opened.cells, word, campaign).id for word in cells or ()]
    _follow(opened, retry_failed=retry_failed or bool(only), uncertified=uncertified, only=only)


@app.command(epilog="example: mspipeline cancel sweeps/demo")
def cancel(campaign: Annotated[Path, typer.Argument(help="Campaign folder.")]) -> None:
    """Stop a sweep, the state of its cells saved."""
    from mspipeline.campaigns.campaign import Campaign
    from mspipeline.campaigns.cancel import cancel as cancel_campaign
    from mspipeline.commands.display.campaigns import summary
    from mspipeline.console import stderr

    stderr.print(f"{campaign}: {summary(cancel_campaign(Campaign.open(campaign)))}")


def _follow(
    campaign: Any,
    *,
    retry_failed: bool = False,
    uncertified: bool = False,
    detach: bool = False,
    only: Sequence[str] = (),
) -> None:
    """Run a campaign to its end with a live table: scans, certificates, cells, tables, each where it is lacking."""
    from mspipeline.campaigns.certificates import certify_campaign
    from mspipeline.campaigns.follow import CellsFailed
    from mspipeline.commands.display import LiveStates
    from mspipeline.console import CaseProgress, stderr

    here = not campaign.scheduler.queues
    if here and campaign.to_prepare:
        campaign = _prepare_here(campaign)
    if not uncertified:
        with CaseProgress("certify", enabled=sys.stderr.isatty()) as report:
            outcomes = certify_campaign(campaign, report=report)
        for each in outcomes:
            if each.certificate is not None:
                stderr.print(f"{each.backend} {each.state}: {each.file}")
    if detach:
        waiting = sum(state.state == "running" for state in campaign.submit(retry_failed=retry_failed))
        stderr.print(f"{waiting} cells are in the queue; follow them with `mspipeline status {campaign.folder}`")
        return
    failure: SuiteError | None = None
    with LiveStates() as states:
        try:
            ended = campaign.run(states, retry_failed=retry_failed, only=only)
        except (CellsFailed, BackendError) as error:
            failure, ended = error, campaign.state()
    if here and campaign.record.collect and any(each.state in ("done", "failed", "absent") for each in ended):
        _collect_here(campaign)
    if failure is not None:
        raise failure
    for problem in dict.fromkeys(each.message for each in ended if each.state == "absent"):
        cells = [each.id for each in ended if each.state == "absent" and each.message == problem]
        stderr.print(f"left out: {', '.join(cells)}: {problem}")


def _prepare_here(campaign: Any) -> Any:
    """Prepare a campaign's scans on this machine; the campaign, which knows its shards by then."""
    from mspipeline.console import CaseProgress
    from mspipeline.jobs.work.prepare import prepare

    with CaseProgress("prepare", enabled=sys.stderr.isatty()) as report:
        prepare(campaign.record.prepare, report=report)
    return campaign.prepared()


def _collect_here(campaign: Any) -> None:
    """Make a campaign's tables on this machine."""
    from mspipeline.campaigns.gaps import write_gaps
    from mspipeline.collect.tables import collect
    from mspipeline.console import stderr

    write_gaps(campaign)
    collected = collect(campaign.folder, campaign.folder / "tables")
    for line in (*collected.problems, *collected.notes):
        stderr.print(f"left out of the tables: {line}")
