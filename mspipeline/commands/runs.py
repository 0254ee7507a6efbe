"""Commands of one run: train it, score it, predict with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mspipeline.commands.app import (
    BatchSize,
    Checkpoint,
    Device,
    HowCascades,
    Json,
    MemoryBudgetMb,
    Prefer,
    Settings,
    SkipIncomplete,
    Threads,
    app,
    run_job,
)

OF_TRAINING = "training."
"""What a `--set` of the training, not of the model, begins with."""
OF_RECIPE = "training.recipe."
"""Of the settings that the recipe of the shards has for training."""


@app.command(epilog="example: mspipeline train unet2d shards/ --epochs 4 --set base_width=16 -o runs/")
def train(
    model: Annotated[str, typer.Argument(help="A network of `mspipeline models`.")],
    shards: Annotated[Path, typer.Argument(help="Folder made by `mspipeline prepare`.")],
    backend: Annotated[str, typer.Option(help="A backend of `mspipeline doctor`.")] = "tensorflow",
    output: Annotated[Path, typer.Option("--output", "-o", help="The run gets a folder of its own in here.")] = Path(
        "runs"
    ),
    epochs: Annotated[int | None, typer.Option(help="[default: 128]", show_default=False)] = None,
    batch_size: Annotated[int | None, typer.Option(help="[default: 8 slices, 128 patches]", show_default=False)] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="adam, sgd or adadelta. [default: adam]", show_default=False)
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="[default: the optimizer's: adam 0.001, sgd 0.01, adadelta 1]", show_default=False),
    ] = None,
    loss: Annotated[
        str | None, typer.Option(help="bce_dice, bce, dice or categorical_ce. [default: what fits]", show_default=False)
    ] = None,
    patience: Annotated[int | None, typer.Option(help="Epochs without improvement before the end; 0: never.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of training settings; options replace its.")] = None,
    settings: Settings = None,
    device: Device = "auto",
    memory: Annotated[str, typer.Option(help="PyEDDL's memory level: low_mem, mid_mem or full_mem.")] = "mid_mem",
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order of images, dropout.")] = 0,
    threads: Threads = 0,
    processes: Annotated[
        int, typer.Option(min=1, help="Train in as many, each on its share of a batch; one per GPU.")
    ] = 1,
    checkpoint_every: Annotated[float, typer.Option(help="Seconds between checkpoints within an epoch.")] = 300.0,
    stage: Annotated[
        int | None, typer.Option(min=1, help="Of a cascade on patches, train this stage alone. [default: all]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a network. Run again to continue a training that was stopped.

    --set gives the model's arguments, --set training.KEY=VALUE a setting of the training: training.momentum=0.9, of the
    recipe's: --set training.recipe.KEY=VALUE.
    """
    from mspipeline.commands.display import print_run
    from mspipeline.config import TrainingSettings, TrainJob, parse, parse_assignments, read_config
    from mspipeline.jobs.process.launch import rank_of
    from mspipeline.jobs.work.train import graph_of
    from mspipeline.models.from_file import model_settings
    from mspipeline.recipes.catalogue import recipe_of
    from mspipeline.runs import run_id
    from mspipeline.shards.manifest import load_manifest

    chosen = {
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "loss": loss,
        "patience": patience,
    }
    training = read_config(config, TrainingSettings) if config else TrainingSettings()
    given = settings or []
    of_recipe = [each.removeprefix(OF_RECIPE) for each in given if each.startswith(OF_RECIPE)]
    assigned = [
        each.removeprefix(OF_TRAINING)
        for each in given
        if each.startswith(OF_TRAINING) and not each.startswith(OF_RECIPE)
    ]
    of_model = [each for each in given if not each.startswith(OF_TRAINING)]
    document = {
        "model": model_settings(model, parse_assignments(of_model)),
        "backend": backend,
        "device": device,
        "memory": memory,
        "seed": seed,
        "threads": threads,
        "processes": processes,
        "stage": stage,
        "checkpoint_every_s": checkpoint_every,
        "shards": shards.absolute(),
        "run_folder": output.absolute(),
        "training": {
            **training.model_dump(),
            "recipe": {**training.recipe, **parse_assignments(of_recipe)},
            **parse_assignments(assigned),
            **{key: value for key, value in chosen.items() if value is not None},
        },
    }
    job = parse(document, TrainJob, where="command line")
    manifest = load_manifest(shards)
    graph_of(job, recipe_of(manifest.recipe, where=f"{shards}: recipe"), manifest.label_set)
    name = run_id(job, manifest)
    run_job("train", job.model_copy(update={"run_folder": output.absolute() / name}))
    if rank_of("train", job) == 0:
        print_run(output / name, as_json=as_json)


@app.command(epilog="example: mspipeline evaluate runs/unet2d-tensorflow-s0-1a2b3c4d shards/ --subset test")
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    shards: Annotated[Path, typer.Argument(help="The shards it was trained on.")],
    subset: Annotated[
        list[str] | None, typer.Option(help="train, validation or test; repeatable. [default: validation and test]")
    ] = None,
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
    batch_size: BatchSize = None,
    threads: Threads = 0,
    inference: HowCascades = "auto",
    memory_budget_mb: MemoryBudgetMb = 1024,
    as_json: Json = False,
) -> None:
    """Score a run case by case. Dice, IoU, precision, recall, specificity, volume error, on each scan's own grid."""
    from mspipeline.commands.display import print_cases
    from mspipeline.config import EvaluateJob, parse
    from mspipeline.runs import RunPaths, read_record

    document = {
        "run_folder": run.absolute(),
        "shards": shards.absolute(),
        "subsets": subset or [],
        "checkpoint": checkpoint,
        "device": device,
        "batch_size": batch_size,
        "threads": threads,
        "inference": inference,
        "memory_budget_mb": memory_budget_mb,
    }
    job = parse(document, EvaluateJob, where="command line")
    read_record(RunPaths(run))
    run_job("evaluate", job)
    print_cases(run, checkpoint=job.checkpoint, as_json=as_json)


@app.command(epilog="example: mspipeline predict runs/unet2d-tensorflow-s0-1a2b3c4d scans/ -o derivatives/")
def predict(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    dataset: Annotated[Path, typer.Argument(help="Scans, as for `prepare`; no masks needed.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The derivative goes in here.")] = Path("derivatives"),
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
    batch_size: BatchSize = None,
    threads: Threads = 0,
    inference: HowCascades = "auto",
    memory_budget_mb: MemoryBudgetMb = 1024,
    skip_incomplete: SkipIncomplete = False,
    prefer: Prefer = None,
    brain: Annotated[
        str | None,
        typer.Option(help="auto, mixed, mask or nonzero, in place of the recipe's of the training."),
    ] = None,
) -> None:
    """Write maps of lesions or labels. A BIDS derivative, each map on the grid of its scan."""
    from mspipeline.commands.display import print_derivative
    from mspipeline.config import PredictJob, parse
    from mspipeline.runs import RunPaths, read_record

    document = {
        "run_folder": run.absolute(),
        "dataset": dataset.absolute(),
        "output": output.absolute(),
        "checkpoint": checkpoint,
        "device": device,
        "batch_size": batch_size,
        "threads": threads,
        "inference": inference,
        "memory_budget_mb": memory_budget_mb,
        "skip_incomplete": skip_incomplete,
        "prefer": prefer or [],
        "brain": brain,
    }
    job = parse(document, PredictJob, where="command line")
    name = read_record(RunPaths(run)).run_id
    run_job("predict", job)
    print_derivative(output / f"mspipeline-{name}")
