"""Commands about images: which there are, building one, trying one out, and taking one elsewhere."""

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
    help="Images: list, build, test and move them. Built by docker, podman, buildah, apptainer or singularity.",
    epilog="example: mspipeline image build host --builder podman && mspipeline image test host",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(image)

Name = Annotated[str, typer.Argument(help="An image of `mspipeline image list`.")]
Builder = Annotated[
    str | None, typer.Option(help="Program to use. [default: the first that works here]", show_default=False)
]
Options = Annotated[
    list[str] | None, typer.Option(help="A further word for that program, as --option=--isolation=chroot; repeatable.")
]
Pinned = Annotated[str, typer.Argument(help="HOST/NAME@sha256:..., as `mspipeline image push` prints it.")]


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
    option: Options = None,
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


@image.command(epilog="example: mspipeline image push jax registry.example/suite/mspipeline-jax:0.1.0")
def push(
    name: Name,
    destination: Annotated[str, typer.Argument(help="HOST/NAME:TAG.")],
    builder: Builder = None,
    option: Options = None,
) -> None:
    """Send an image that was built here to a registry. On stdout: the name with the digest by which it is pulled."""
    from mspipeline.console import stderr, stdout
    from mspipeline.containers.build import tag_of
    from mspipeline.containers.recipes import recipe_named
    from mspipeline.containers.transfer import push as push_image

    recipe = recipe_named(name)
    stdout.print(push_image(_store(builder), tag_of(recipe), destination, stderr.print, option or ()))


@image.command(epilog="example: mspipeline image pull jax registry.example/suite/mspipeline-jax@sha256:...")
def pull(name: Name, reference: Pinned, builder: Builder = None, option: Options = None) -> None:
    """Fetch an image by its digest. One of another backend or version is refused."""
    from mspipeline.console import stderr, stdout
    from mspipeline.containers.recipes import recipe_named
    from mspipeline.containers.transfer import pull as pull_image

    facts = pull_image(_store(builder), reference, recipe_named(name), stderr.print, option or ())
    stdout.print(facts.image)


@image.command(epilog="example: mspipeline image verify jax registry.example/suite/mspipeline-jax@sha256:...")
def verify(name: Name, reference: Pinned, builder: Builder = None) -> None:
    """Say whether the image of that digest is here, and is of this backend and version."""
    from mspipeline.console import stdout
    from mspipeline.containers.recipes import recipe_named
    from mspipeline.containers.transfer import verify as verify_image

    facts = verify_image(_store(builder), reference, recipe_named(name))
    stdout.print(f"{facts.image}: version {facts.version}, commit {facts.revision or 'unknown'}")


@image.command(epilog="example: mspipeline image save jax -o jax.tar")
def save(
    name: Name,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.", show_default=False)],
    builder: Builder = None,
) -> None:
    """Write an image that was built here as a file, for a site without a way out; its hash stands in FILE.json."""
    from mspipeline.console import stderr, stdout
    from mspipeline.containers.build import tag_of
    from mspipeline.containers.recipes import recipe_named
    from mspipeline.containers.transfer import save as save_image

    save_image(_store(builder), tag_of(recipe_named(name)), output, stderr.print)
    stdout.print(str(output))


@image.command(epilog="example: mspipeline image load jax.tar")
def load(
    file: Annotated[Path, typer.Argument(help="A file of `image save`, FILE.json beside it.")], builder: Builder = None
) -> None:
    """Take an image from a file. One that is not as it was saved is refused."""
    from mspipeline.console import stderr, stdout
    from mspipeline.containers.transfer import load as load_image

    stdout.print(load_image(_store(builder), file, stderr.print))


def _store(wanted: str | None) -> str:
    """The program that keeps images here: the one asked for, else the first that works."""
    from mspipeline.containers.builders import builders_here, choose_builder
    from mspipeline.containers.transfer import STORES

    return choose_builder(
        wanted, {name: problem for name, problem in builders_here().items() if name in (*STORES, wanted)}
    )
