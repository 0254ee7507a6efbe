"""The commands: parse, call, print. What a command does is done by other rooms, imported when it is asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mspipeline import __version__
from mspipeline.errors import STOPPED, Interrupted, TableError, UsageError


@contextmanager
def _own_ends() -> Iterator[None]:
    """Typer would end in silence on Ctrl-C, and with code 1 where nobody reads on (`mspipeline ... | head`)."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(STOPPED) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit from None


class _Commands(TyperGroup):
    """The commands, ending as `_own_ends` says."""

    def make_context(self, *arguments: Any, **keywords: Any) -> Any:
        with _own_ends():
            return super().make_context(*arguments, **keywords)

    def invoke(self, ctx: Any) -> Any:
        with _own_ends():
            return super().invoke(ctx)


app = typer.Typer(
    name="mspipeline",
    cls=_Commands,
    help="Benchmarks of medical-image segmentation: prepare scans, train on several backends, compare what it costs.",
    epilog="example: mspipeline phantom data && mspipeline prepare data && mspipeline train unet2d shards --epochs 4",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Threads = Annotated[int, typer.Option(min=0, help="Threads of the framework; 0: every core this process may use.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images a batch.")]
Checkpoint = Annotated[str, typer.Option(help="Weights to use: best or last.")]
SkipIncomplete = Annotated[bool, typer.Option("--skip-incomplete", help="Leave out cases without a modality.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a value; repeatable.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mspipeline {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback on errors (anywhere on the line).")] = False,
) -> None:
    """Options of every command; `main` has read --debug already."""


@app.command(epilog="example: mspipeline phantom demo-data --cases 6 --seed 1")
def phantom(
    folder: Annotated[Path, typer.Argument(help="Folder to make; must be empty or not there yet.")],
    cases: Annotated[int, typer.Option(min=1, help="Heads to make.")] = 6,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal bytes.")] = 0,
    shape: Annotated[tuple[int, int, int], typer.Option(help="Voxels to the right, to the front, up.")] = (64, 64, 48),
) -> None:
    """Make a BIDS dataset of phantom heads. T1w, T2w, FLAIR, with masks of white-matter lesions and brain."""
    from mspipeline.console import CaseProgress, stdout
    from mspipeline.datasets.phantom import make_phantom

    with CaseProgress("phantom", enabled=sys.stderr.isatty()) as report:
        make_phantom(folder, cases=cases, seed=seed, shape=shape, report=report)
    stdout.print(f"{folder}: {cases} cases of {'x'.join(map(str, shape))} voxels; next: mspipeline prepare {folder}")


@app.command(epilog="example: mspipeline prepare data/ --recipe slices2d --set size=[128,128,128] -o shards/")
def prepare(
    dataset: Annotated[Path, typer.Argument(help="BIDS folder, or one of the open-MS repository.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the shards.")] = Path("shards"),
    recipe: Annotated[str, typer.Option(help="Built-in recipe or TOML file.")] = "slices2d",
    settings: Settings = None,
    split: Annotated[Path | None, typer.Option(help="TOML file with train, validation, test case ids.")] = None,
    split_seed: Annotated[int, typer.Option(min=0, help="Deals subjects to subsets.")] = 0,
    validation: Annotated[float, typer.Option(help="Share of subjects for validation.")] = 0.2,
    test: Annotated[float, typer.Option(help="Share of subjects for test.")] = 0.2,
    skip_incomplete: SkipIncomplete = False,
    as_json: Json = False,
) -> None:
    """Turn scans into shards. Normalised, resampled, one HDF5 file a case, split by subject."""
    from jobs.prepare import prepare as prepare_job
    from mspipeline.config import PrepareJob, parse, parse_assignments
    from mspipeline.console import CaseProgress
    from mspipeline.display import print_json, print_manifest

    job = parse(
        {
            "dataset": dataset,
            "output": output,
            "recipe": recipe,
            "split": {"seed": split_seed, "validation": validation, "test": test, "file": split},
            "skip_incomplete": skip_incomplete,
        },
        PrepareJob,
        where="command line",
    )
    with CaseProgress("prepare", enabled=sys.stderr.isatty()) as report:
        manifest = prepare_job(job, recipe_overrides=parse_assignments(settings or []), report=report)
    if as_json:
        print_json(manifest.model_dump(mode="json"))
    else:
        print_manifest(manifest, output)


@app.command(epilog="example: mspipeline train unet2d shards/ --epochs 4 --set base_width=16 -o runs/")
def train(
    model: Annotated[str, typer.Argument(help="A network of `mspipeline models`.")],
    shards: Annotated[Path, typer.Argument(help="Folder made by `mspipeline prepare`.")],
    backend: Annotated[str, typer.Option(help="A backend of `mspipeline doctor`.")] = "tensorflow",
    output: Annotated[Path, typer.Option("--output", "-o", help="The run gets a folder of its own in here.")] = Path(
        "runs"
    ),
    epochs: Annotated[int | None, typer.Option(help="[default: 128]", show_default=False)] = None,
    batch_size: Annotated[int | None, typer.Option(help="[default: 8]", show_default=False)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Adam's. [default: 0.001]", show_default=False)] = None,
    loss: Annotated[str | None, typer.Option(help="bce or dice. [default: bce]", show_default=False)] = None,
    patience: Annotated[int | None, typer.Option(help="Epochs without improvement before the end; 0: never.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of training settings; options replace its.")] = None,
    settings: Settings = None,
    device: Annotated[str, typer.Option(help="auto, cpu or gpu.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order of images, dropout.")] = 0,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Train a network. Run again to continue a training that was stopped; --set gives the model's arguments."""
    from jobs.train import graph_of
    from mspipeline.config import TrainingSettings, TrainJob, parse, parse_assignments, read_config
    from mspipeline.runs import run_id
    from mspipeline.shards.manifest import load_manifest

    chosen = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "loss": loss,
        "patience": patience,
    }
    training = read_config(config, TrainingSettings) if config else TrainingSettings()
    document = {
        "model": {"name": model, "arguments": parse_assignments(settings or [])},
        "backend": backend,
        "device": device,
        "seed": seed,
        "threads": threads,
        "shards": shards.absolute(),
        "run_folder": output.absolute(),
        "training": {**training.model_dump(), **{key: value for key, value in chosen.items() if value is not None}},
    }
    job = parse(document, TrainJob, where="command line")
    manifest = load_manifest(shards)
    graph_of(job, manifest)
    name = run_id(job, manifest)
    _run("train", job.model_copy(update={"run_folder": output.absolute() / name}))
    _show_run(output / name, as_json)


@app.command(epilog="example: mspipeline evaluate runs/unet2d-tensorflow-s0-1a2b3c4d shards/ --subset test")
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    shards: Annotated[Path, typer.Argument(help="The shards it was trained on.")],
    subset: Annotated[
        list[str] | None, typer.Option(help="train, validation or test; repeatable. [default: those held out]")
    ] = None,
    checkpoint: Checkpoint = "best",
    batch_size: BatchSize = 8,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Score a run case by case. Dice, IoU, precision, recall, specificity, volume error, on each scan's own grid."""
    from mspipeline.config import EvaluateJob, parse
    from mspipeline.display import print_cases
    from mspipeline.runs import RunPaths, read_record

    document = {
        "run_folder": run.absolute(),
        "shards": shards.absolute(),
        "subsets": subset or [],
        "checkpoint": checkpoint,
        "batch_size": batch_size,
        "threads": threads,
    }
    job = parse(document, EvaluateJob, where="command line")
    read_record(RunPaths(run))
    _run("evaluate", job)
    print_cases(run, as_json=as_json)


@app.command(epilog="example: mspipeline predict runs/unet2d-tensorflow-s0-1a2b3c4d scans/ -o derivatives/")
def predict(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    dataset: Annotated[Path, typer.Argument(help="Scans, as for `prepare`; no masks needed.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The derivative goes in here.")] = Path("derivatives"),
    checkpoint: Checkpoint = "best",
    batch_size: BatchSize = 8,
    threads: Threads = 0,
    skip_incomplete: SkipIncomplete = False,
) -> None:
    """Write lesion maps of scans. A BIDS derivative, each map on the grid of its scan."""
    from mspipeline.config import PredictJob, parse
    from mspipeline.console import stdout
    from mspipeline.runs import RunPaths, read_record

    document = {
        "run_folder": run.absolute(),
        "dataset": dataset.absolute(),
        "output": output.absolute(),
        "checkpoint": checkpoint,
        "batch_size": batch_size,
        "threads": threads,
        "skip_incomplete": skip_incomplete,
    }
    job = parse(document, PredictJob, where="command line")
    name = read_record(RunPaths(run)).run_id
    _run("predict", job)
    stdout.print(f"lesion maps are in {output / f'mspipeline-{name}'}")


@app.command(epilog="example: mspipeline sweep benchmarks/suites/demo.toml --shards shards/ -o sweeps/demo")
def sweep(
    file: Annotated[Path, typer.Argument(help="Sweep file.")],
    shards: Annotated[Path, typer.Option(help="Folder made by `mspipeline prepare`.")] = Path("shards"),
    output: Annotated[Path | None, typer.Option("--output", "-o", help="[default: sweeps/NAME]")] = None,
    site: Annotated[str, typer.Option(help="Built-in site or TOML file.")] = "local",
) -> None:
    """Train and evaluate the cells of a sweep. Run again, or `resume`, to continue."""
    from mspipeline.backends.registry import availability
    from slurm.campaign import Campaign
    from slurm.site import load_site
    from slurm.sweep import load_sweep

    loaded = load_sweep(file)
    for backend in loaded.matrix.backend:
        availability(backend)  # an unknown name is refused now; one that is not installed is a cell that fails
    folder = output or Path("sweeps") / loaded.name
    _follow(Campaign.create(folder, loaded, shards, load_site(site)))


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
) -> None:
    """Run what a sweep has not done yet. Cells that are done are not run again."""
    from slurm.campaign import Campaign

    _follow(Campaign.open(campaign), retry_failed=retry_failed)


@app.command(epilog="example: mspipeline cancel sweeps/demo")
def cancel(campaign: Annotated[Path, typer.Argument(help="Campaign folder.")]) -> None:
    """Stop a sweep, the state of its cells saved."""
    from slurm.campaign import Campaign

    Campaign.open(campaign).cancel()


@app.command(epilog="example: mspipeline collect runs/ -o tables/")
def collect(
    runs: Annotated[Path, typer.Argument(help="Folder with run folders or campaigns below it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the tables.")] = Path("tables"),
    as_json: Json = False,
) -> None:
    """Merge run folders into Parquet tables. They are runs, epochs, cases, samples."""
    from jobs.collect import collect_job
    from mspipeline.config import CollectJob
    from mspipeline.display import print_tables

    collected = collect_job(CollectJob(runs=runs, output=output))
    print_tables(collected.tables, output, as_json=as_json)
    if collected.problems:
        raise TableError(f"{len(collected.problems)} runs left out: {'; '.join(collected.problems)}")


@app.command(epilog="example: mspipeline report tables/ -o report.html")
def report(
    tables: Annotated[Path, typer.Argument(help="Folder made by `mspipeline collect`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Its title.")] = "Segmentation benchmark",
    as_json: Json = False,
) -> None:
    """Write the comparison as a page."""
    from mspipeline.display import print_comparison
    from mspipeline.report.page import write_page
    from mspipeline.report.summary import summarise
    from mspipeline.report.tables import load_tables

    write_page(tables, output, title)
    print_comparison(summarise(load_tables(tables)), output, as_json=as_json)


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


@app.command(epilog="example: mspipeline doctor")
def doctor(
    site: Annotated[str, typer.Option(help="Built-in site or TOML file.")] = "local",
    as_json: Json = False,
) -> None:
    """Say what works here and what is missing."""
    from mspipeline.display import print_findings
    from mspipeline.doctor import examine

    print_findings(examine(site), as_json=as_json)


def _run(name: str, job: Any) -> None:
    """Keep a job's configuration in its run folder and run it under the supervisor."""
    from jobs.launch import run_supervised
    from mspipeline.files import write_json
    from mspipeline.runs import RunPaths

    config = RunPaths(job.run_folder).job_config(name)
    write_json(config, job.model_dump(mode="json"))
    if code := run_supervised(name, config, debug="--debug" in sys.argv):
        raise typer.Exit(code)


def _show_run(folder: Path, as_json: bool) -> None:
    from mspipeline.display import print_run

    print_run(folder, as_json=as_json)


def _follow(campaign: Any, *, retry_failed: bool = False) -> None:
    """Run a campaign to its end with a live table."""
    from mspipeline.display import LiveStates

    with LiveStates() as states:
        campaign.run(states, retry_failed=retry_failed)
