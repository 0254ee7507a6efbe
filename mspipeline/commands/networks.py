"""Commands about networks: what they are, whether backends agree on them, where they go and come from."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from mspipeline.commands.app import Checkpoint, Json, Settings, Threads, app
from mspipeline.errors import UsageError


@app.command(epilog="example: mspipeline models --json")
def models(
    name: Annotated[str | None, typer.Argument(help="One network instead of all.", show_default=False)] = None,
    table: Annotated[bool, typer.Option("--table", help="Its nodes: shape, parameters, work, activations.")] = False,
    as_json: Json = False,
) -> None:
    """List the networks, or the nodes of one. Parameters, multiply-accumulates, activations, backends."""
    from mspipeline.commands.display import print_models, print_nodes

    if not table:
        print_models(name, as_json=as_json)
    elif name is None:
        raise UsageError("--table needs the name of a network: `mspipeline models unet2d --table`, for instance")
    else:
        print_nodes(name, as_json=as_json)


@app.command(epilog="example: mspipeline certify unet2d --backends tensorflow,jax --set base_width=8")
def certify(
    model: Annotated[str, typer.Argument(help="A network of `mspipeline models`.")],
    backends: Annotated[str, typer.Option(help="Two or more, the reference first: A,B[,C].", show_default=False)],
    settings: Settings = None,
    shape: Annotated[
        str | None,
        typer.Option(metavar="HxWxC", help="Image, channels last. [default: a small one]", show_default=False),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the certificates.")] = Path("certificates"),
    device: Annotated[str, typer.Option(help="auto, cpu or gpu.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="Threads of each framework.")] = 1,
    batch_size: Annotated[int, typer.Option(min=0, help="Images; 0: as many as the network needs.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and images.")] = 0,
    optimizers: Annotated[
        str | None, typer.Option(help="Whose step is compared: adam,sgd. [default: all]", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Prove that backends compute the same network. Activations, loss, gradients and steps are compared."""
    from mspipeline.commands.display import print_certification
    from mspipeline.config import ModelSettings, parse_assignments
    from mspipeline.console import CaseProgress
    from mspipeline.jobs.work.certification import Request, judge
    from mspipeline.jobs.work.certification import certify as certify_backends
    from mspipeline.optimizers import OPTIMIZERS

    if shape is not None and not all(size.isdecimal() and int(size) for size in shape.split("x")):
        raise UsageError(f"--shape {shape}: expected sizes such as 256x256x1 (height, width, channels)")
    if device not in ("auto", "cpu", "gpu"):
        raise UsageError(f"--device is auto, cpu or gpu; received: {device}")
    request = Request(
        ModelSettings(name=model, arguments=parse_assignments(settings or [])),
        tuple(name.strip() for name in backends.split(",")),
        () if shape is None else tuple(map(int, shape.split("x"))),
        device,  # type: ignore[arg-type]
        threads,
        seed,
        batch_size,
        tuple(OPTIMIZERS.built_in) if optimizers is None else tuple(name.strip() for name in optimizers.split(",")),
    )
    with CaseProgress("certify", enabled=sys.stderr.isatty()) as report:
        outcomes = certify_backends(request, output, report=report)
    print_certification(outcomes, as_json=as_json)
    judge(outcomes)


@app.command(
    name="import-weights",
    epilog="example: mspipeline import-weights nicms model_1.hdf5 model_2.hdf5 -o runs/nicms",
)
def import_weights(
    model: Annotated[str, typer.Argument(help="Whose weights: nicms.")],
    files: Annotated[list[Path], typer.Argument(help="HDF5 files of nicMSlesions (Keras), one a stage, in order.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The run folder to make.")] = Path("runs/nicms"),
    modality: Annotated[
        list[str] | None,
        typer.Option(help="A channel, in the order of training; repeatable. [default: T1w FLAIR]", show_default=False),
    ] = None,
    backend: Annotated[str, typer.Option(help="The backend that will predict.")] = "tensorflow",
    settings: Settings = None,
) -> None:
    """Make a run of published weights, which `predict` reads. --set replaces numbers: spread=brain, min_total_ml=0."""
    from mspipeline.config import parse_assignments
    from mspipeline.console import stdout
    from mspipeline.interchange.runs.nicms import MODEL, import_nicms
    from mspipeline.provenance import provenance

    if model != MODEL:
        raise UsageError(f"import-weights knows the published weights of {MODEL} only; received: {model}")
    channels = modality or ["T1w", "FLAIR"]
    chosen = parse_assignments(settings or [])
    record = import_nicms(files, output, modalities=channels, backend=backend, origin=provenance(), settings=chosen)
    stages = "1 stage" if len(files) == 1 else f"{len(files)} stages"
    stdout.print(f"{record.run_id}: {stages} on {', '.join(channels)} is in {output}")


@app.command(epilog="example: mspipeline export runs/unet2d-tensorflow-s0-1a2b3c4d --onnx unet2d.onnx")
def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    onnx: Annotated[Path, typer.Option("--onnx", help="The file to write.", show_default=False)],
    checkpoint: Checkpoint = "best",
    stage: Annotated[int | None, typer.Option(help="Of a cascade, from 1.", show_default=False)] = None,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Write a run's network as an ONNX file. Tensors are channels first, the batch axis is open."""
    from mspipeline.commands.display import print_json
    from mspipeline.console import stdout
    from mspipeline.interchange.runs.onnx import export_run
    from mspipeline.jobs.work.resources import threads_for

    if checkpoint not in ("best", "last"):
        raise UsageError(f"--checkpoint is best or last; received: {checkpoint}")
    kept: Literal["best", "last"] = "last" if checkpoint == "last" else "best"
    done = export_run(run, onnx, checkpoint=kept, stage=stage, threads=threads_for(threads))
    if as_json:
        print_json(asdict(done))
        return
    stdout.print(f"{done.file}: ONNX, opset {done.opset}")
    for what, tensors in (("input", done.inputs), ("output", done.outputs)):
        for name, shape in tensors.items():
            stdout.print(f"  {what} {name}: (batch, {', '.join(map(str, shape))}), float32")
    if done.difference is None:
        stdout.print(f"  not compared with {done.backend}: {done.absent}")
    else:
        stdout.print(f"  largest difference, onnxruntime to {done.backend}, seeded batch: {done.difference:.2g}")


@app.command("import", epilog="example: mspipeline import unet.onnx --shards shards/ -o runs/unet")
def import_onnx(
    file: Annotated[Path, typer.Argument(help="ONNX file, its tensors channels first.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The run folder to make.", show_default=False)],
    shards: Annotated[
        Path | None, typer.Option(help="Shards whose recipe the network was trained with; `evaluate` takes them.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="Instead of shards: built-in recipe or TOML file.")] = "slices2d",
    settings: Settings = None,
    shape: Annotated[
        str | None, typer.Option(metavar="CxHxW", help="Image, for a file of open sizes.", show_default=False)
    ] = None,
    backend: Annotated[str, typer.Option(help="The backend that will predict.")] = "onnxruntime",
    threshold: Annotated[float, typer.Option(help="Probability from which a voxel is lesion.")] = 0.5,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Make a run of an ONNX file. `mspipeline predict` and `evaluate` use it as any other."""
    from mspipeline.commands.display import print_json
    from mspipeline.config import parse_assignments
    from mspipeline.console import stdout
    from mspipeline.interchange.runs.onnx import import_run
    from mspipeline.jobs.work.resources import threads_for
    from mspipeline.labels import LESIONS
    from mspipeline.provenance import provenance
    from mspipeline.recipes.catalogue import load_recipe, recipe_of
    from mspipeline.shards.manifest import load_manifest

    if shape is not None and not all(size.isdecimal() for size in shape.split("x")):
        raise UsageError(f"--shape {shape}: expected sizes such as 1x256x256 (channels, height, width)")
    if not 0 < threshold < 1:
        raise UsageError(f"--threshold is above 0 and below 1; received: {threshold}")
    data: dict[str, str] = {}
    labels = LESIONS
    if shards is None:
        chosen = load_recipe(recipe, parse_assignments(settings or []))
        chosen.check_importable(recipe)
    else:
        manifest = load_manifest(shards)
        chosen = recipe_of(manifest.recipe, where=f"{shards}: recipe")
        chosen.check_importable(str(shards))
        data = {"dataset_hash": manifest.dataset_hash, "split_hash": manifest.split_hash}
        labels = manifest.label_set
    made = import_run(
        file,
        output,
        recipe=chosen,
        labels=labels,
        data=data,
        shape=None if shape is None else tuple(map(int, shape.split("x"))),
        backend=backend,
        threshold=threshold,
        threads=threads_for(threads),
        origin=provenance(),
    )
    if as_json:
        print_json({**made.record.model_dump(mode="json"), "run_folder": str(output), "difference": made.difference})
        return
    graph, opset = made.imported.graph, made.imported.opset
    stdout.print(f"{made.record.run_id}: {len(graph.nodes)} nodes, opset {opset}, is in {output}")
    for note in made.imported.notes:
        stdout.print(f"  {note}")
    if made.difference is not None:
        stdout.print(f"  largest difference to the file in onnxruntime, by its largest value: {made.difference:.2g}")
