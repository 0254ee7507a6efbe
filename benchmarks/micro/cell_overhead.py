"""What a campaign adds to a cell on SLURM: `python -m benchmarks.micro.cell_overhead`.

The same small training and evaluation on the tests' private cluster: as a cell of a campaign, under the supervisor with
its telemetry, and as two command lines in a bare sbatch script. Compared are the seconds from handing it over to the
first training step, and from the last one to the row that says it is done; of the bare job, to its leaving the queue.
"""

from __future__ import annotations

import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path

from mspipeline.backends.registry import availability
from mspipeline.benchmarks.micro.private_slurm import SITE, private_slurm
from mspipeline.benchmarks.micro.result import Result, main
from mspipeline.campaigns.arrays import config_path
from mspipeline.campaigns.campaign import Campaign
from mspipeline.campaigns.cells import Cell
from mspipeline.campaigns.sweep import Matrix, Sweep
from mspipeline.config import PrepareJob, TrainingSettings
from mspipeline.datasets.phantom import make_phantom
from mspipeline.files import write_json
from mspipeline.jobs.work.prepare import prepare
from mspipeline.runs import RunPaths, read_rows
from mspipeline.tables.schema import EPOCHS

REPEATS = 3
BOUND = 0.5
BACKEND = "torch"
PAUSE_S = 0.05


def measure(repeats: int = REPEATS) -> list[Result]:
    """Medians of interleaved runs; nothing where there is no SLURM or no engine."""
    if problem := availability(BACKEND).problem:
        print(f"skipped: {problem}", file=sys.stderr)
        return []
    with private_slurm() as cluster, tempfile.TemporaryDirectory() as name:
        if cluster is None:
            return []
        folder = Path(name)
        make_phantom(folder / "scans", cases=4, seed=0, shape=(32, 32, 16))
        shards = folder / "shards"
        prepare(PrepareJob(dataset=folder / "scans", output=shards), recipe_overrides={"size": (32, 32, 16)})
        bare: list[tuple[float, float]] = []
        suite: list[tuple[float, float]] = []
        for repeat in range(repeats):
            bare.append(_bare(cluster, _campaign(folder / f"bare{repeat}", shards).cells[0]))
            suite.append(_suite(_campaign(folder / f"suite{repeat}", shards)))
    results = []
    for number, part in enumerate(("submit to first step", "last step to row")):
        ours, peer = (statistics.median(each[number] for each in runs) for runs in (suite, bare))
        detail = f"{ours:.2f} s against {peer:.2f} s, {ours - peer:+.2f} s a cell; {repeats} runs of each"
        results.append(Result(f"cell, {part}", "a bare sbatch", peer / ours, BOUND, detail))
    return results


def _campaign(folder: Path, shards: Path) -> Campaign:
    """One small cell."""
    sweep = Sweep(
        name="one",
        matrix=Matrix(model=("unet2d",), backend=(BACKEND,)),
        models={"unet2d": {"base_width": 2}},
        training=TrainingSettings(epochs=2, batch_size=5),
        threads=1,
    )
    return Campaign.create(folder, sweep, shards, SITE)


def _suite(campaign: Campaign) -> tuple[float, float]:
    """As a cell, followed to its end."""
    began = time.time()
    campaign.run()
    return _around(campaign.cells[0], began, time.time())


def _bare(cluster: object, cell: Cell) -> tuple[float, float]:
    """As a user's own script would run it."""
    lines = []
    for job, settings in (("train", cell.train), ("evaluate", cell.evaluate)):
        write_json(config_path(cell, job), settings.model_dump(mode="json"))
        lines.append(shlex.join([sys.executable, "-P", "-m", "mspipeline.jobs", job, str(config_path(cell, job))]))
    log = cell.train.run_folder / "out"
    run = cluster.run  # type: ignore[attr-defined]
    began = time.time()
    run("sbatch", "-c1", "--mem=2G", f"--output={log}", "--wrap", " && ".join(lines))
    while run("squeue", "-h"):
        time.sleep(PAUSE_S)
    ended = time.time()
    if not RunPaths(cell.train.run_folder).cases.exists():
        raise RuntimeError(f"the bare job went wrong: {log.read_text(encoding='utf-8')[-500:]}")
    return _around(cell, began, ended)


def _around(cell: Cell, began: float, ended: float) -> tuple[float, float]:
    """Seconds before the first training step and after the last, told by the epochs' rows and when they were written.

    Started and stopped times are those of this host, on which the nodes are too.
    """
    epochs = RunPaths(cell.train.run_folder).epochs
    trained_s = sum(row["seconds"] for row in read_rows(epochs, EPOCHS).to_pylist())
    last = epochs.stat().st_mtime
    return last - trained_s - began, ended - last


if __name__ == "__main__":
    main(measure, __doc__)
