"""Dense inference against patches on a real case: `python -m benchmarks.micro.dense_inference [--json]`.

cascade3d with random weights (time does not depend on them), on the first case of `ms/` under MSPIPELINE_DATA, or
../shared/data, that has FLAIR, T1w and T2w; on a phantom where there is none. MSPIPELINE_BENCH_BACKEND names the
backend, else TensorFlow. Patches are timed on SAMPLE voxels and scaled up, in batches of BATCH, on all cores. Whole
brain: all tiles with brain, timed on TILES of them and scaled up, with the time to make the program. Candidates: all of
them by `auto`, compiling included. Memory: the budget against the growth of the process from before
the program is made to its highest.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from mspipeline.backends.base import Execution
from mspipeline.backends.registry import create
from mspipeline.benchmarks.micro.result import Result, main
from mspipeline.channels import channels_of
from mspipeline.datasets.layouts import find_cases
from mspipeline.datasets.phantom import make_phantom
from mspipeline.dense.tiles import deal, fitting_program
from mspipeline.models.catalogue import build
from mspipeline.network.weights import initial_weights
from mspipeline.patches.candidates import candidates
from mspipeline.recipes.patches3d.cascade import predict_patches
from mspipeline.recipes.patches3d.prepare import PatchCase, apply_files
from mspipeline.recipes.patches3d.schema import PatchSchema
from mspipeline.recipes.patches3d.voxelwise import VoxelNetwork

SAMPLE = 8192
BATCH = 1024
TILES = 6
BUDGET_MB = 1024
WHOLE_BRAIN, NEVER_SLOWER = 4.0, 0.95


def real_case(recipe: PatchSchema, room: Path) -> tuple[str, PatchCase]:
    """A case with all modalities: of the real ones, or a phantom made in `room`."""
    shared = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    dataset = Path(os.environ.get("MSPIPELINE_DATA", shared)) / "ms"
    if not dataset.is_dir():
        dataset = room / "phantom"
        make_phantom(dataset, cases=1, seed=0, shape=(160, 190, 160))
    case = find_cases(dataset, recipe.modalities, masks="optional").cases[0]
    return case.id, apply_files(recipe, case.scans, case.brain_mask)


def measure() -> list[Result]:
    """Whole brain, candidates, memory."""
    recipe, threads = PatchSchema(), len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as room:
        name, case = real_case(recipe, Path(room))
    graph, execution = build("cascade3d", recipe.image_shape, {}), Execution(threads=threads)
    backend = create(os.environ.get("MSPIPELINE_BENCH_BACKEND", "tensorflow"))
    backend.build(graph, execution)
    backend.set_weights(initial_weights(graph, 0))
    brain = np.argwhere(case.brain)
    chosen = candidates(case.image[..., recipe.candidates_channel], recipe.candidates_above, within=case.brain)
    sample = brain[len(brain) // 2 :][:SAMPLE]

    def patches() -> None:
        channels = channels_of(graph, spatial=())
        predict_patches(backend, channels, case.image, sample, recipe.patch_size, batch_size=BATCH, threads=threads)

    patches()
    patch_s = seconds(patches) / len(sample)

    before = memory_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM begins anew
    dense = VoxelNetwork(backend, graph, execution, inference="dense", memory_budget_mb=BUDGET_MB)
    side = fitting_program(graph, backend.weights(), BUDGET_MB).tile[0]
    tiles = deal(brain, side)
    some = [brain[tile.members] for tile in tiles[:: max(1, len(tiles) // TILES)][:TILES]]
    setup_s = seconds(lambda: dense.predict(case.image, some[0][:1], batch_size=BATCH))
    tile_s = [seconds(partial(dense.predict, case.image, places, batch_size=BATCH)) for places in some]
    growth = memory_mb("VmHWM") - before
    whole_s = setup_s + float(np.mean(tile_s)) * len(tiles)

    auto = VoxelNetwork(backend, graph, execution, memory_budget_mb=BUDGET_MB)
    auto_s = seconds(lambda: auto.predict(case.image, chosen, batch_size=BATCH, threads=threads))
    by_patches = f"{1e6 * patch_s:.0f} us a patch on {backend.name}, {threads} threads"
    return [
        Result(
            f"dense inference of cascade3d, whole brain of {name}",
            "patch by patch",
            len(brain) * patch_s / whole_s,
            WHOLE_BRAIN,
            f"{len(brain):,} voxels: {whole_s:.1f} s, of which {setup_s:.1f} s make the program, and "
            f"{len(brain) * patch_s:.1f} s; {by_patches}; {len(tiles)} tiles of {side}^3",
        ),
        Result(
            f"inference of cascade3d by auto, candidates of {name}",
            "patch by patch",
            len(chosen) * patch_s / auto_s,
            NEVER_SLOWER,
            f"{len(chosen):,} voxels: {auto_s:.1f} s and {len(chosen) * patch_s:.1f} s",
        ),
        Result(
            "memory budget of dense inference",
            "the growth of the process",
            BUDGET_MB / growth,
            1.0,
            f"budget {BUDGET_MB} MB, growth {growth:.0f} MB",
        ),
    ]


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def memory_mb(what: str) -> float:
    """This process's resident size, now (VmRSS) or at its highest (VmHWM)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{what}:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main(measure, __doc__.splitlines()[0])
