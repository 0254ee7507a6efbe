"""Peak memory of reading 4 times the cases, against that of 1 times: `python -m benchmarks.micro.reader_memory`.

Each measurement is a process of its own, whose peak resident size Linux keeps.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mspipeline.benchmarks.micro.result import Result, main
from mspipeline.config import SplitSettings
from mspipeline.datasets.split import make_split
from mspipeline.recipes.slices2d.batches import SliceReader
from mspipeline.recipes.slices2d.prepare import apply
from mspipeline.recipes.slices2d.schema import SliceSchema
from mspipeline.recipes.slices2d.shard import SliceEntry, write_slices
from mspipeline.shards.manifest import Manifest, entries_as, load_manifest, write_manifest
from mspipeline.volume import ScanGrid, Volume

CASES = 6
GROWTH = 4
PROCESSES = 3
BOUND = 1 / 1.1
SHAPE = (256, 256, 16)
EPOCHS = 2

Work = Callable[[Path], None]


def read_epochs(shards: Path) -> None:
    """Read EPOCHS epochs of every case as training does, without a network."""
    manifest = load_manifest(shards)
    with SliceReader(shards, entries_as(SliceEntry, manifest.cases), batch_size=8, seed=0, shuffle=True) as reader:
        for number in range(EPOCHS):
            for batch in reader.epoch(number):
                batch.images.sum()


def write_shards(shards: Path, cases: int) -> None:
    """A folder of `cases` shards of SHAPE noise: 4 MiB of images each."""
    recipe = SliceSchema(modalities=("FLAIR",), size=SHAPE)
    grid = ScanGrid(SHAPE, np.eye(4), 1, 1)
    entries = []
    for number in range(cases):
        random = np.random.default_rng(number)
        flair = random.random(grid.shape, dtype=np.float32) + 1
        prepared = apply(recipe, {"FLAIR": Volume(flair, grid)}, mask=Volume(flair > 1.99, grid))
        entries.append(write_slices(shards, f"sub-{number:02d}", prepared, {}))
    split = make_split({entry.case: entry.case for entry in entries}, SplitSettings(validation=0, test=0))
    write_manifest(
        shards,
        Manifest(
            dataset_name="noise",
            dataset_hash="",
            recipe=recipe.model_dump(mode="json"),
            recipe_hash=recipe.hash,
            channels=recipe.modalities,
            split=split,
            split_hash=split.hash,
            cases=tuple(entries),
        ),
    )


def peak_rss_bytes(work: Work, shards: Path) -> int:
    """Peak resident size of a fresh process that does `work` on `shards` and nothing else.

    Raises RuntimeError where the process fails.
    """
    context = multiprocessing.get_context("spawn")  # a forked child would start with this process's pages
    answers, answer = context.Pipe(duplex=False)
    child = context.Process(target=_measured, args=(work, shards, answer))
    child.start()
    answer.close()
    try:
        peak = int(answers.recv())
    except EOFError:
        raise RuntimeError(f"the measured process ended without an answer (exit code {child.exitcode})") from None
    finally:
        child.join()
    return peak


def measure(work: Work = read_epochs, cases: int = CASES, name: str = "reader") -> list[Result]:
    """Peak memory of `work`, a function of a module, on `cases` and on GROWTH times as many."""
    with tempfile.TemporaryDirectory() as folder:
        peaks = []
        for count in (cases, GROWTH * cases):
            shards = Path(folder) / str(count)
            write_shards(shards, count)
            # The least of some processes: what the allocator happens to keep only adds.
            peaks.append(min(peak_rss_bytes(work, shards) for _ in range(PROCESSES)))
    small, large = peaks
    detail = f"peak RSS {small / 2**20:.1f} MiB of {cases} cases, {large / 2**20:.1f} MiB of {GROWTH * cases}"
    return [Result(f"peak RSS of the {name} on {GROWTH} times the cases", "1 times", small / large, BOUND, detail)]


def _measured(work: Work, shards: Path, answer: multiprocessing.connection.Connection) -> None:
    work(shards)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    # Not getrusage: its ru_maxrss begins with the pages of the process that started this one.
    answer.send(int(status.split("VmHWM:")[1].split()[0]) * 1024)
    answer.close()


if __name__ == "__main__":
    main(measure, __doc__)
