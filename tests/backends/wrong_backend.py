"""Backends that are wrong in one node: a real adapter is given the graph with that node's operation changed.

wrong_backend.py evidence BACKEND FOLDER        evidence of `GRAPH` in FOLDER/<fault>.npz, one for each of FAULTS
wrong_backend.py job CONFIG NODE KEY=VALUE      as the job `certify` of CONFIG, with one argument of NODE changed
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from mspipeline.backends.base import Backend, Execution
from mspipeline.backends.certification.evidence import gather, write_evidence
from mspipeline.backends.certification.trial import Trial, make_trial
from mspipeline.backends.registry import adapter
from mspipeline.config import CertifyJob, read_config
from mspipeline.network.graph import Builder, Graph
from mspipeline.network.ops import BatchNorm, Concat, Conv, Input, MaxPool, Op, Relu, Resize, Sigmoid, Upsample

FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("", {}),
    "epsilon": ("norm2", {"epsilon": 1e-3}),
    "padding": ("conv2", {"padding": ((0, 2), (1, 1))}),
    "interpolation": ("resize", {"method": "nearest"}),
    "corners": ("resize", {"align_corners": True}),
    "momentum": ("norm1", {"momentum": 0.99}),
}


def small_graph() -> Graph:
    """Two convolutions with what stands around them in a U-Net, 15 nodes."""
    builder = Builder("small")
    image = builder.add("image", Input((16, 16, 1)))

    def convolution(number: int, source: str, filters: int) -> str:
        op = Conv(filters, (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), bias=True)
        x = builder.add(f"conv{number}", op, source)
        return builder.add(f"act{number}", Relu(), builder.add(f"norm{number}", BatchNorm(0.9, 1e-5), x))

    skip = convolution(1, image, 3)
    x = builder.add("pool", MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), ceil=False), skip)
    x = convolution(2, x, 4)
    x = builder.add("resize", Resize((8, 12), "bilinear", align_corners=False), x)
    x = builder.add("resize_back", Resize((8, 8), "bilinear", align_corners=False), x)
    x = builder.add("up", Upsample((2, 2)), x)
    x = convolution(3, builder.add("join", Concat(), skip, x), 2)
    x = builder.add("head", Conv(1, (1, 1), (1, 1), (1, 1), ((0, 0), (0, 0)), bias=True), x)
    return builder.graph(builder.add("probability", Sigmoid(), x))


def small_trial() -> Trial:
    return make_trial(small_graph(), seed=0)


def wrong(real: type[Backend], node: str, changes: dict[str, Any]) -> type[Backend]:
    """The real adapter, which realises `node` with other arguments than it is asked for."""

    class Wrong(real):  # type: ignore[misc, valid-type]
        def build(self, graph: Graph, execution: Execution) -> None:
            def changed(name: str, op: Op) -> Op:
                return replace(op, **changes) if name == node else op

            super().build(replace(graph, nodes=tuple(replace(n, op=changed(n.name, n.op)) for n in graph)), execution)

    return Wrong


def main() -> None:
    what, *rest = sys.argv[1:]
    if what == "evidence":
        backend, folder = rest
        for fault, (node, changes) in FAULTS.items():
            made = wrong(adapter(backend), node, changes)()
            write_evidence(Path(folder) / f"{fault}.npz", gather(made, small_trial(), Execution(device="cpu"), {}))
        return
    import mspipeline.jobs.work.certify

    config, node, change = rest
    key, _, value = change.partition("=")
    job = read_config(Path(config), CertifyJob)
    certify: Any = mspipeline.jobs.work.certify
    certify.create = lambda name: wrong(adapter(name), node, {key: json.loads(value)})()
    certify.certify_job(job)


if __name__ == "__main__":
    main()
