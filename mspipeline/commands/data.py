"""Commands that make and prepare scans."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from mspipeline.commands.app import Json, Prefer, Settings, SkipIncomplete, app

RESAMPLED_SHOWN = 3
"""Cases of which is said what put them on one grid; the manifest says it of all."""


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
    prefer: Prefer = None,
    resample_to: Annotated[
        str | None, typer.Option(metavar="MODALITY", help="Put all files of a case on the grid of this one.")
    ] = None,
    change_mask: Annotated[
        bool, typer.Option("--change-mask", help="Raw open-MS data: take the mask of changed lesions for truth.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Turn scans into shards. Normalised, resampled, one HDF5 file a case, split by subject.

    Recipe slices2d cuts slices for 2-D networks; patches3d keeps volumes and the voxels to cut patches around.
    Started by mpirun or srun, the ranks share the cases: mpirun -n 8 mspipeline prepare data/
    """
    from mspipeline.commands.display import print_json, print_manifest
    from mspipeline.config import PrepareJob, parse, parse_assignments
    from mspipeline.console import CaseProgress, stdout
    from mspipeline.jobs.work.prepare import prepare as prepare_job
    from mspipeline.jobs.work.prepare import prepare_team

    with prepare_team(os.environ) as team:
        if team is None:  # another MPI rank than 0: its share is done
            return
        job = parse(
            {
                "dataset": dataset,
                "output": output,
                "recipe": recipe,
                "split": {"seed": split_seed, "validation": validation, "test": test, "file": split},
                "skip_incomplete": skip_incomplete,
                "prefer": prefer or [],
                "resample_to": resample_to,
                "change_mask": change_mask,
            },
            PrepareJob,
            where="command line",
        )
        overrides = parse_assignments(settings or [])
        with CaseProgress("prepare", enabled=sys.stderr.isatty()) as report:
            manifest = prepare_job(job, recipe_overrides=overrides, report=report, team=team)
    if as_json:
        print_json(manifest.model_dump(mode="json"))
        return
    for case, files in list(manifest.resampled.items())[:RESAMPLED_SHOWN]:
        how = ", ".join(f"{name} by {one}" for name, one in files.items())
        stdout.print(f"  {case}: onto the grid of {manifest.recipe['resample_to']}: {how}")
    if (more := len(manifest.resampled) - RESAMPLED_SHOWN) > 0:
        stdout.print(f"  and {more} more cases, see {output / 'manifest.json'}")
    print_manifest(manifest, output)
