"""Networks: what they cost, and whether they are the same on several backends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.text import Text

from mspipeline.backends.certification.certificate import Outcome, say_error
from mspipeline.backends.registry import BACKENDS, adapter
from mspipeline.commands.display.table import print_json, table
from mspipeline.console import stdout
from mspipeline.models.catalogue import MODELS, build
from mspipeline.models.catalogue import entry as catalogue_entry
from mspipeline.network.cost import cost


def print_models(only: str | None = None, *, as_json: bool) -> None:
    """Each network, or one, at its example size: parameters, multiply-accumulates, backends that can realise it."""
    rows: list[dict[str, Any]] = []
    models = MODELS.working() if only is None else {only: catalogue_entry(only)}
    for name, entry in models.items():
        graph = build(name, entry.example_shape, {})
        costs = cost(graph)
        rows.append(
            {
                "name": name,
                "trainable": costs.trainable,
                "non_trainable": costs.non_trainable,
                "total": costs.total,
                "macs": costs.macs,
                "backends": [backend for backend in BACKENDS.working() if not adapter(backend).unsupported(graph)],
            }
        )
    if as_json:
        print_json(rows)
        return
    shown = table(["model", "images", "trainable", "non-trainable", "GMAC / image", "backends", "arguments"], words=1)
    for row, (name, entry) in zip(rows, models.items(), strict=True):
        shown.add_row(
            name,
            "x".join(map(str, entry.example_shape)),
            f"{row['trainable']:,}",
            f"{row['non_trainable']:,}",
            f"{row['macs'] / 1e9:.3g}",
            ", ".join(row["backends"]),
            ", ".join(f"{key}={value}" for key, value in entry.arguments.items()),
        )
    stdout.print(shown)


def print_nodes(name: str, *, as_json: bool) -> None:
    """A network at its example size, node by node, and in total; activations are those of one image, in float32."""
    shape = catalogue_entry(name).example_shape
    costs = cost(build(name, shape, {}))
    total = {
        "trainable": costs.trainable,
        "non_trainable": costs.non_trainable,
        "total": costs.total,
        "macs": costs.macs,
        "activation_bytes": costs.activation_bytes(batch_size=1),
    }
    if as_json:
        print_json({"name": name, "image_shape": shape, **total, "nodes": [asdict(node) for node in costs.nodes]})
        return
    shown = table(["node", "operation", "shape", "parameters", "MMAC", "activations MB"], words=3)
    for node in costs.nodes:
        shown.add_row(
            node.name,
            node.op,
            "x".join(map(str, node.shape)),
            f"{node.trainable + node.non_trainable:,}",
            f"{node.macs / 1e6:,.2f}",
            f"{node.activation_bytes / 1e6:,.2f}",
        )
    shown.add_section()
    shown.add_row(
        f"{len(costs.nodes)} nodes",
        "",
        "",
        f"{costs.total:,}",
        f"{costs.macs / 1e6:,.2f}",
        f"{total['activation_bytes'] / 1e6:,.2f}",
    )
    stdout.print(shown)
    stdout.print(
        f"{name} on an image of {'x'.join(map(str, shape))}: {costs.trainable:,} trainable parameters, "
        f"{costs.non_trainable:,} that training does not fit"
    )


def print_certification(outcomes: Sequence[Outcome], *, as_json: bool) -> None:
    """How each backend agrees with the reference: a line a quantity, with its worst node; then what came of it."""
    if as_json:
        print_json(
            [
                {
                    "backend": each.backend,
                    "state": each.state,
                    "detail": each.detail,
                    "file": each.file,
                    "certificate": None if each.certificate is None else each.certificate.model_dump(mode="json"),
                }
                for each in outcomes
            ]
        )
        return
    shown = table(["backend", "quantity", "worst node", "error", "tolerance", "left out", "verdict"], words=3)
    for each in outcomes:
        for row in () if each.certificate is None else each.certificate.measured:
            shown.add_row(
                each.backend,
                row.quantity,
                row.worst,
                say_error(row.error),
                f"{row.tolerance:.0e}",
                f"{100 * row.left_out / row.of:.0f} %" if row.of else "-",
                Text("agrees", "green") if row.agrees else Text(f"differs from {row.begins} on", "bold red"),
            )
    if shown.row_count:
        stdout.print(shown)
    for each in outcomes:
        state = "is the reference" if each.state == "reference" else each.state
        file = "" if each.file is None else f"; {each.file}"
        stdout.print(f"{each.backend} {state}{': ' if each.detail else ''}{each.detail}{file}")
