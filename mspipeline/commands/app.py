"""The command line's frame: how every command ends, and the options that several share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mspipeline import __version__
from mspipeline.errors import STOPPED, Interrupted


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


class Commands(TyperGroup):
    """The commands, ending as `_own_ends` says."""

    def make_context(self, *arguments: Any, **keywords: Any) -> Any:
        with _own_ends():
            return super().make_context(*arguments, **keywords)

    def invoke(self, ctx: Any) -> Any:
        with _own_ends():
            return super().invoke(ctx)


app = typer.Typer(
    name="mspipeline",
    cls=Commands,
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
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Images a batch. [default: 8 slices, 1024 patches]", show_default=False)
]
Checkpoint = Annotated[str, typer.Option(help="Weights to use: best or last.")]
Device = Annotated[str, typer.Option(help="auto, cpu or gpu.")]
HowCascades = Annotated[
    str, typer.Option("--inference", help="Of cascades: auto (what needs less arithmetic), dense or patches.")
]
MemoryBudgetMb = Annotated[int, typer.Option(min=1, help="Of dense inference, in MB.")]
SkipIncomplete = Annotated[bool, typer.Option("--skip-incomplete", help="Leave out cases without a modality.")]
Prefer = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ENTITY-VALUE",
        help="Which of several files of one kind to take: run-1, desc-consensus, a folder of derivatives; repeatable.",
    ),
]
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


def run_job(name: str, job: Any) -> None:
    """Run a job under the supervisor."""
    from mspipeline.jobs.process.launch import run_supervised

    if code := run_supervised(name, job, debug="--debug" in sys.argv):
        raise typer.Exit(code)
