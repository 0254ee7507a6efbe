"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from mspipeline.backends.registry import availability
from mspipeline.config import ModelSettings, TrainingSettings, TrainJob
from mspipeline.models.from_file import model_settings

REPOSITORY = Path(__file__).parent.parent
SMALL_UNET = ModelSettings(**model_settings(f"{REPOSITORY}/tests/small_unet.py:small_unet", {"base_width": 2}))
"""For jobs of which the network is not the matter: see there."""
MEMORY_KILLS = {"test_endings.py", "test_endings_on_cluster.py", "test_no_space.py"}

# Before an engine is loaded, and for every program that a test starts.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that wait in a spin take another test's core
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of programs start: each would compile the suite anew

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background (`make test &`) a shell makes us ignore Ctrl-C, and our children would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans; skips where it is absent."""
    folder = Path(os.environ.get("MSPIPELINE_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real scans at {folder}; set MSPIPELINE_DATA to a folder that has them")
    return folder


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BIDS phantom of 4 cases on a 32x32x16 grid. Read only: it is shared by the whole test run."""
    from mspipeline.datasets.phantom import make_phantom

    folder = tmp_path_factory.mktemp("phantom") / "dataset"
    make_phantom(folder, cases=4, seed=0, shape=(32, 32, 16))
    return folder


@pytest.fixture(scope="session")
def small_shards(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small_dataset` prepared at its own grid: 2 cases to train on, 1 each for validation and test. Read only."""
    from mspipeline.config import PrepareJob
    from mspipeline.jobs.work.prepare import prepare

    folder = tmp_path_factory.mktemp("prepared") / "shards"
    prepare(PrepareJob(dataset=small_dataset, output=folder), recipe_overrides={"size": (32, 32, 16)})
    return folder


def narrow_job(shards: Path, folder: Path) -> TrainJob:
    """Two epochs of a very small U-Net, into a folder of the caller's own."""
    return TrainJob(
        model=SMALL_UNET,
        shards=shards,
        run_folder=folder / "run",
        threads=2,
        training=TrainingSettings(epochs=2, batch_size=5, learning_rate=1e-2, warmup_steps=10, loss="dice"),
    )


@pytest.fixture
def train_job(small_shards: Path, tmp_path: Path) -> TrainJob:
    """A short training on `small_shards`, into a folder of the test's own."""
    return narrow_job(small_shards, tmp_path)


@pytest.fixture(scope="session")
def trained_run(small_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainJob:
    """A short training on `small_shards`, finished. Read only: it is shared by the whole test run."""
    from mspipeline.console import TrainingProgress
    from mspipeline.jobs.work.train import train
    from mspipeline.telemetry.events import EventWriter
    from mspipeline.telemetry.schema import Identity

    if problem := availability("tensorflow").problem:
        pytest.skip(problem)
    job = narrow_job(small_shards, tmp_path_factory.mktemp("trained"))
    with EventWriter(None, Identity("")) as events, TrainingProgress(enabled=False) as observer:
        train(job, events=events, observer=observer, stop=lambda: None)
    return job


@pytest.fixture
def backend_needed() -> None:
    """Skip where TensorFlow is not installed."""
    if problem := availability("tensorflow").problem:
        pytest.skip(problem)


@pytest.fixture(autouse=True)
def _one_memory_kill_at_a_time(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """The kernel counts them for the whole machine: a test of another process would take them for its own."""
    if request.path.name not in MEMORY_KILLS:
        yield
        return
    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with (shared / "memory kills.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first: at the end, when one process has nothing left to do, another should not begin it.

    With `--dist loadfile` a module's tests run in one process, in this order, so that what they share is made once.
    (`loadgroup` does not work: pytest-xdist 3.8 names the groups in an attribute that pytest 9.2 does not read.)
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.name != "test_every_backend.py", item.path not in slow))
