"""Patches around random voxels: `gather` against the samplers that others use for the same job.

Run as `python -m benchmarks.micro.patch_peers [--json]` in an environment that has them: TorchIO and MONAI are looked
for as packages, nicMSlesions in the file that NICMS_BASE names (its `libs/CNN/base.py`). What is absent is said and
left out. Random patches of 11^3 voxels and 3 channels, float32, from a volume of 182 x 218 x 182, as one array or as
the peer hands them out; one thread each, medians.
"""

from __future__ import annotations

import ast
import os
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from operator import add
from pathlib import Path
from typing import Any

import numpy as np

from mspipeline.benchmarks.micro.result import Result, main
from mspipeline.patches.gather import gather

GRID = (182, 218, 182)
SIZE = (11, 11, 11)
PATCHES = 50_000
PATCHES_PEERS = 2_000
REPEATS = 5
FASTER = 3.0

Volume = np.ndarray[Any, np.dtype[np.float32]]
Centres = np.ndarray[Any, np.dtype[np.int64]]


def measure() -> list[Result]:
    """One ratio for each peer that is there."""
    random = np.random.default_rng(0)
    volume = random.random((*GRID, 3), np.float32)
    centres = np.stack([random.integers(6, n - 6, PATCHES) for n in GRID], axis=1)
    out = np.zeros((PATCHES, *SIZE, 3), np.float32)
    gather(volume, centres[:2], SIZE)  # compiles
    ours = _median(lambda: gather(volume, centres, SIZE, out=out, threads=1)) / PATCHES
    peers: dict[str, Callable[[Volume, Centres], Callable[[], object]] | None] = {
        "TorchIO's UniformSampler": _torchio if find_spec("torchio") else None,
        "MONAI's RandSpatialCropSamples": _monai if find_spec("monai") else None,
        "nicMSlesions' get_patches": _nicms if os.environ.get("NICMS_BASE") else None,
    }
    results = []
    for name, peer in peers.items():
        if peer is None:
            print(f"{name}: not here, left out", file=sys.stderr)
            continue
        theirs = _median(peer(volume, centres[:PATCHES_PEERS])) / PATCHES_PEERS
        detail = f"{ours * 1e6:.2f} and {theirs * 1e6:.1f} microseconds a patch, one thread"
        results.append(Result("gather of 3x11^3 patches", name, theirs / ours, FASTER, detail))
    return results


def _torchio(volume: Volume, centres: Centres) -> Callable[[], object]:
    import torch
    import torchio

    torch.set_num_threads(1)
    subject = torchio.Subject(image=torchio.ScalarImage(tensor=torch.from_numpy(volume).permute(3, 0, 1, 2)))
    sampler = torchio.UniformSampler(SIZE)
    return lambda: [patch["image"].data for patch in sampler(subject, num_patches=len(centres))]


def _monai(volume: Volume, centres: Centres) -> Callable[[], object]:
    import torch
    from monai.transforms import RandSpatialCropSamples

    torch.set_num_threads(1)
    image = torch.from_numpy(volume).permute(3, 0, 1, 2)
    crop = RandSpatialCropSamples(roi_size=SIZE, num_samples=len(centres), random_size=False)
    return lambda: crop(image)


class _Python3(ast.NodeTransformer):
    """nicMSlesions is Python 2: there `/` of integers rounds down, and `map` gives a list."""

    def visit_Div(self, node: ast.Div) -> ast.FloorDiv:
        return ast.FloorDiv()

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "map":
            return ast.Call(ast.Name("list", ast.Load()), [node], [])
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        """`image[list of slices]` was an index by axis; NumPy takes it as a tuple now."""
        self.generic_visit(node)
        if isinstance(node.slice, ast.Name) and node.slice.id == "idx":
            node.slice = ast.Call(ast.Name("tuple", ast.Load()), [node.slice], [])
        return node


def _nicms(volume: Volume, centres: Centres) -> Callable[[], object]:
    source = Path(os.environ["NICMS_BASE"]).read_text(encoding="utf-8")
    function = "def get_patches(" + source.partition("def get_patches(")[2].partition("\ndef ")[0]
    module = ast.fix_missing_locations(_Python3().visit(ast.parse(function)))
    names: dict[str, Any] = {"np": np, "add": add}
    exec(compile(module, "get_patches", "exec"), names)
    places = [tuple(map(int, centre)) for centre in centres]
    channels = [np.ascontiguousarray(volume[..., channel]) for channel in range(volume.shape[-1])]
    return lambda: np.stack([np.array(names["get_patches"](image, places, SIZE)) for image in channels], axis=1)


def _median(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main(measure, __doc__.splitlines()[0])
