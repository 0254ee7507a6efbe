"""A sweep of two backends: certified before its cells, or not compared."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mspipeline.backends.certification.certificate import NotCertified
from mspipeline.backends.registry import BACKENDS, availability
from mspipeline.campaigns.campaign import Campaign
from mspipeline.campaigns.certificates import certify_campaign
from mspipeline.campaigns.site import Partition, Site
from mspipeline.campaigns.site_file import load_site
from mspipeline.campaigns.sweep import Matrix, Sweep
from mspipeline.config import Scalar, TrainingSettings
from mspipeline.console import TrainingProgress
from mspipeline.errors import BackendError
from mspipeline.jobs.work.certification import job_command
from mspipeline.jobs.work.train import train
from mspipeline.runs import RunPaths, read_record
from mspipeline.telemetry.events import EventWriter
from mspipeline.telemetry.schema import Identity

WRONG = Path(__file__).parents[1] / "backends" / "wrong_backend.py"
SEVERAL = [name for name in ("tensorflow", "pyeddl", "jax", "torch") if not availability(name).problem][:2]
needs_two = pytest.mark.skipif(len(SEVERAL) < 2, reason="needs two backends")


def campaign(
    shards: Path, folder: Path, backends: list[str], site: Site | None = None, optimizers: tuple[str, ...] = ("adam",)
) -> Campaign:
    overrides: dict[str, tuple[Scalar, ...]] = {"training.optimizer": optimizers}
    sweep = Sweep(
        name="pair",
        matrix=Matrix(model=("unet2d",), backend=tuple(backends), device=("cpu",), overrides=overrides),
        models={"unet2d": {"base_width": 2}},
        training=TrainingSettings(epochs=1, batch_size=8),
        threads=2,
    )
    return Campaign.create(folder / "campaign", sweep, shards, site or load_site("local"))


def refuse_to_start(backend: str, config: Path) -> list[str]:
    raise AssertionError(f"{backend} was started")


def test_one_backend_needs_no_certificate(small_shards: Path, tmp_path: Path) -> None:
    one = campaign(small_shards, tmp_path, ["tensorflow"])
    assert one.cells[0].train.certificates is None
    assert certify_campaign(one, command=refuse_to_start) == []


@needs_two
@pytest.mark.long
def test_missing_certificates_are_made_once_and_a_run_says_which_cover_it(small_shards: Path, tmp_path: Path) -> None:
    pair = campaign(small_shards, tmp_path, SEVERAL)
    assert [each.state for each in certify_campaign(pair)] == ["reference", "certified"]
    assert certify_campaign(pair, command=refuse_to_start) == []
    job = next(cell.train for cell in pair.cells if cell.train.backend == "tensorflow")
    with EventWriter(None, Identity("")) as events, TrainingProgress(enabled=False) as observer:
        record = train(job, events=events, observer=observer, stop=lambda: None)
    (note,) = record.certificates
    assert (note.reference, note.other, note.same_graph, note.image_shape) == (*SEVERAL, True, (32, 32, 1))
    assert record.uncertified == ""


@needs_two
@pytest.mark.long
def test_a_sweep_of_unequal_networks_is_refused(small_shards: Path, tmp_path: Path) -> None:
    def command(backend: str, config: Path) -> list[str]:
        program = [sys.executable, "-W", "ignore", str(WRONG), "job", str(config), "enc2_conv1_bn", "epsilon=1e-2"]
        return job_command(backend, config) if backend == SEVERAL[0] else program

    pair = campaign(small_shards, tmp_path, SEVERAL)
    said = (
        rf"unet2d: not certified against {SEVERAL[0]}: {SEVERAL[1]}: forward differs from enc2_conv1_bn .*--uncertified"
    )
    with pytest.raises(NotCertified, match=said):
        certify_campaign(pair, command=command)
    with pytest.raises(NotCertified):  # the file says differs, so it is tried again
        certify_campaign(pair, command=command)


@needs_two
def test_cells_on_other_machines_are_certified_there(small_shards: Path, tmp_path: Path) -> None:
    site = Site(name="there", executor="slurm", partitions={"cores": Partition(device="cpu")})
    pair = campaign(small_shards, tmp_path, SEVERAL, site)
    words = f"unet2d --backends {','.join(SEVERAL)} --set base_width=2 --shape 32x32x1 --device cpu --optimizers adam"
    said = f"make it on a node: `mspipeline certify {words} -o {pair.folder}"
    with pytest.raises(NotCertified, match=said):
        certify_campaign(pair, command=refuse_to_start)


@needs_two
def test_the_optimizers_of_a_sweep_are_the_ones_that_are_certified(small_shards: Path, tmp_path: Path) -> None:
    site = Site(name="there", executor="slurm", partitions={"cores": Partition(device="cpu")})
    pair = campaign(small_shards, tmp_path, SEVERAL, site, ("sgd", "adadelta"))
    assert [cell.train.training.optimizer for cell in pair.cells] == ["sgd", "adadelta"] * 2
    with pytest.raises(NotCertified, match="--device cpu --optimizers sgd,adadelta -o "):
        certify_campaign(pair, command=refuse_to_start)


def test_a_cell_whose_backend_is_absent_leaves_a_record_that_says_so(
    small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = replace(BACKENDS["torch"], distributions=(("no_such_framework", ("no-such-framework",)),))
    monkeypatch.setitem(BACKENDS.built_in, "torch", gone)
    pair = campaign(small_shards, tmp_path, ["tensorflow", "torch"])
    assert certify_campaign(pair, command=refuse_to_start) == []
    job = pair.cells[1].train
    with (
        EventWriter(None, Identity("")) as events,
        TrainingProgress(enabled=False) as observer,
        pytest.raises(BackendError, match="backend torch needs no_such_framework"),
    ):
        train(job, events=events, observer=observer, stop=lambda: None)
    record = read_record(RunPaths(job.run_folder))
    assert (record.status, record.device) == ("failed", "")
    assert record.problem.startswith("backend torch needs no_such_framework, not installed here; pip install")
