"""Commands about images: which there are, building one, trying one out."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from mspipeline.commands.app import Commands, Json, app

image = typer.Typer(
    name="image",
    cls=Commands,
    help="Images: list, build and test them. Built by docker, podman, buildah, apptainer or singularity.",
    epilog="example: mspipeline image build host --builder podman && mspipeline image test host",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(image)

Name = Annotated[str, typer.Argument(help="An image of `mspipeline image list`.")]
Builder = Annotated[
    str | None, typer.Option(help="Program to use. [default: the first that works here]", show_default=False)
]


@image.command(name="list", epilog="example: mspipeline image list --json")
def list_images(as_json: Json = False) -> None:
    """List the images: backend, oldest driver, packages in the lock, base."""
    from mspipeline.commands.display import print_images

    print_images(as_json=as_json)


@image.command(epilog="example: mspipeline image build jax --base localhost/python:3.12")
def build(
    name: Name,
    builder: Builder = None,
    base: Annotated[
        str | None, typer.Option(help="Image to begin with. [default: that of images.toml]", show_default=False)
    ] = None,
    index: Annotated[str | None, typer.Option(help="Package index instead of pip's own.", show_default=False)] = None,
    source: Annotated[str, typer.Option(help="Address of the repository, for the labels.")] = "",
    option: Annotated[
        list[str] | None,
        typer.Option(help="A further word for the builder, as --option=--isolation=chroot; repeatable."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for a file of apptainer's.")] = Path(),
) -> None:
    """Build an image from its recipe, in a checkout of the repository. It ends with the image's name on stdout."""
    from mspipeline.console import stderr, stdout
    from mspipeline.containers.build import check_lock, checkout, chosen_base, file_of, run_build, tag_of
    from mspipeline.containers.builders import SIF, Build, builders_here, choose_builder
    from mspipeline.containers.recipes import recipe_named
    from mspipeline.provenance import checkout_commit

    recipe, root = recipe_named(name), checkout()
    check_lock(recipe, root)
    begins_with = chosen_base(recipe, base)
    program = choose_builder(builder, builders_here())
    target = str(output.absolute() / file_of(recipe)) if program in SIF else tag_of(recipe)
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    created = datetime.fromtimestamp(int(epoch), UTC) if epoch.isdecimal() else datetime.now(UTC)
    arguments = {
        "REVISION": checkout_commit(root) or "",
        "CREATED": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "SOURCE": source,
        "PIP_INDEX_URL": index or "",
    }
    run_build(program, Build(recipe, target, begins_with, arguments, tuple(option or ())), root, stderr.print)
    stdout.print(target)


@image.command(name="test", epilog="example: mspipeline image test jax --builder podman")
def try_out(
    name: Name,
    reference: Annotated[
        str | None, typer.Argument(help="Its name or file. [default: what `image build` made]", show_default=False)
    ] = None,
    builder: Builder = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Give it the GPUs.")] = False,
    as_json: Json = False,
) -> None:
    """Try an image out: versions, a training step, the certificate, ranks of MPI, GPUs. Exit code 78: it is broken."""
    from mspipeline.commands.display import print_findings
    from mspipeline.containers.build import RUNTIMES, file_of, tag_of, try_image
    from mspipeline.containers.builders import SIF, builders_here, choose_builder
    from mspipeline.containers.recipes import recipe_named
    from mspipeline.errors import ConfigError

    recipe = recipe_named(name)
    here = {each: problem for each, problem in builders_here().items() if each in RUNTIMES or each == builder}
    program = choose_builder(builder, here)
    tried = reference or (file_of(recipe) if program in SIF else tag_of(recipe))
    findings = try_image(program, tried, recipe, gpu=gpu)
    print_findings(findings, as_json=as_json)
    broken = [finding.what for finding in findings if finding.state == "broken"]
    if broken:
        raise ConfigError(f"{tried}: broken: {', '.join(broken)}; do what the lines above say")
