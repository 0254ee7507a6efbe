"""Cells in images on the tests' cluster: Docker, Podman and Apptainer for real (image_runtimes.py)."""

import json
import os
import signal

import pyarrow.parquet as pq
import pytest

from mspipeline import __version__
from mspipeline.campaigns.attempt import read_attempt
from mspipeline.campaigns.before_and_after import prepare_submission
from mspipeline.campaigns.campaign import Campaign
from mspipeline.campaigns.follow import CellsFailed
from mspipeline.campaigns.job_shape import JobShape
from mspipeline.campaigns.schedulers import scheduler_named
from mspipeline.campaigns.site import Partition, Site
from mspipeline.campaigns.submission import CellSubmission, read_submission
from mspipeline.campaigns.sweep import Matrix, Sweep
from mspipeline.collect.tables import collect
from mspipeline.config import PrepareJob, TrainingSettings
from mspipeline.containers.image_facts import look_into
from mspipeline.errors import ConfigError
from mspipeline.files import read_json, write_json
from mspipeline.runs import RunPaths, read_rows
from mspipeline.slurm.checks.host_check import image_findings
from mspipeline.slurm.checks.probe import probe_site
from mspipeline.slurm.site_rules import mpi_command
from mspipeline.tables.schema import EPOCHS
from tests.campaigns.campaign_program import cell_commands
from tests.campaigns.process_watch import wait_for
from tests.campaigns.submitting import submit_together
from tests.mpi_launch import require_mpi
from tests.slurm.image_runtimes import BINDS, COMMIT, LABELS, NoRuntime, start_runtime

pytestmark = [pytest.mark.slurm, pytest.mark.container, pytest.mark.long]


@pytest.fixture(scope="module", params=["docker", "podman", "apptainer"])
def started_runtime(request):
    try:
        with start_runtime(request.param) as runtime:
            yield runtime
    except NoRuntime as reason:
        pytest.skip(str(reason))


@pytest.fixture
def runtime(started_runtime, monkeypatch):
    for name, value in started_runtime.environment.items():
        monkeypatch.setenv(name, value)
    return started_runtime


def site_of(runtime, **values):
    return Site(
        **{
            "name": "images",
            "executor": "slurm",
            "container": runtime.name,
            "images": {"tensorflow": runtime.image},
            "binds": BINDS,
            "partitions": {"cpu": Partition(cpus=2, mem_gb=3, time_min=10)},
            **values,
        }
    )


def lines(folder, name):
    path = folder / name
    return path.read_text().splitlines() if path.exists() else []


LOOK_AROUND = """
cat /etc/image-name; echo user $(id -u):$(id -g); echo folder $PWD; echo digest $MSPIPELINE_IMAGE_DIGEST
echo job $SLURM_JOB_ID; echo secret ${SECRET:-unseen}; touch $TMPDIR/here "$PWD/written"
touch /usr/here 2>/dev/null || echo read-only
"""


def test_a_command_in_an_image_sees_its_folder_and_its_job_and_nothing_else(
    cluster, runtime, make_campaign, monkeypatch, tmp_path
):
    monkeypatch.setenv("SECRET", "not for images")
    site = site_of(runtime, scratch=f"{tmp_path}/scratch")
    campaign = make_campaign(site=site, seeds=(0,))
    folder = campaign.cells[0].train.run_folder
    ended = []
    with pytest.raises(CellsFailed):  # it looks around and writes no rows
        ended = campaign.run(commands=lambda cell: [["sh", "-c", LOOK_AROUND]], poll_s=0.1)
    assert ended == []
    submission = read_submission(folder)
    said = submission.log.read_text().splitlines()
    digest = look_into(runtime.name, runtime.image).digest
    assert "app" in said
    assert f"user {os.getuid()}:{os.getgid()}" in said
    assert f"folder {folder}" in said
    assert f"digest {digest or ''}".strip() in [line.strip() for line in said]
    assert f"job {submission.job_id.partition('_')[0]}" in said
    assert "secret unseen" in said
    assert "read-only" in said
    assert (folder / "written").stat().st_uid == os.getuid()
    assert (tmp_path / "scratch" / "here").exists()


@pytest.mark.slow
def test_a_cell_in_an_image_that_is_put_back_saves_its_state_and_goes_on(cluster, runtime, make_campaign):
    campaign = make_campaign(site=site_of(runtime), seeds=(0,), epochs=12)
    folder = campaign.cells[0].train.run_folder

    def requeue_once(table):
        if table[0].epoch >= 2 and not lines(folder, "stopped.txt"):
            cluster.run("scontrol", "requeue", read_submission(folder).job_id)
            wait_for(lambda: lines(folder, "stopped.txt"), 30)
            cluster.start_again(read_submission(folder).job_id)

    (state,) = campaign.run(requeue_once, commands=cell_commands("--epoch-seconds", "0.4"), poll_s=0.1)
    assert (state.state, state.attempt) == ("done", 1)
    (stopped,) = lines(folder, "stopped.txt")
    assert set(json.loads(stopped)) == {signal.SIGTERM}  # from SLURM itself, and passed on: it may come twice
    assert lines(folder, "epochs.txt") == [str(epoch) for epoch in range(1, 13)]
    assert read_attempt(folder).exit_code == 0


def test_an_image_says_what_it_is_and_a_wrong_one_is_told_with_its_digest(runtime, tmp_path):
    facts = look_into(runtime.name, runtime.image)
    assert (facts.backend, facts.version) == ("tensorflow", __version__)
    (found,) = image_findings(site_of(runtime), ["tensorflow"])
    assert found.state == "ok"
    other = runtime.another(tmp_path, {**LABELS, "org.opencontainers.image.version": "0.0.1"})
    digest = look_into(runtime.name, other).digest or "no digest"
    (found,) = image_findings(site_of(runtime, images={"tensorflow": other}), ["tensorflow"])
    expected = f"{other} ({digest}): holds version 0.0.1 of the suite, and {__version__} submits"
    assert (found.state, found.detail) == ("broken", expected)
    (found,) = image_findings(site_of(runtime, images={"torch": runtime.image}), ["torch"])
    assert (found.state, "an image of backend 'tensorflow', named for 'torch'" in found.detail) == ("broken", True)


def test_a_probe_starts_the_image_on_the_node(cluster, runtime, tmp_path):
    found = {each.what.partition(": ")[2]: each for each in probe_site(site_of(runtime), tmp_path)}
    assert (found["image 'tensorflow'"].state, found["image 'tensorflow'"].detail) == (
        "ok",
        f"{runtime.image} runs, version {__version__}",
    )
    assert found[f"container {runtime.name}"].state == "ok"


def test_a_probe_starts_ranks_of_mpi_inside_the_image(cluster, runtime, tmp_path):
    require_mpi()
    (found,) = (each for each in probe_site(site_of(runtime), tmp_path) if ": MPI" in each.what)
    if runtime.name == "docker":
        assert (found.state, "outside of the job" in found.detail) == ("missing", True)
    else:
        assert found.state == "ok", found
        assert found.detail.startswith("2 ranks of MPICH")
        assert "by srun --mpi=pmi2, on c" in found.detail


@pytest.mark.parametrize("nodes", [1, 2])
def test_ranks_inside_an_image_find_each_other(cluster, runtime, tmp_path, nodes):
    require_mpi()
    site = site_of(runtime, partitions={"cpu": Partition(cpus=2 * nodes, mem_gb=2, time_min=5)})
    if runtime.name == "docker":
        with pytest.raises(ConfigError, match=r"prepare\.ranks = 2, but Docker's daemon starts containers outside"):
            prepare_submission(
                tmp_path, PrepareJob(dataset=tmp_path, output=tmp_path), site, scheduler_named("slurm"), 2, "python"
            )
        return
    joins = ["python", "-P", "-m", "mspipeline.parallel.launchers"]
    order = CellSubmission("ranks", [joins], tmp_path / "cell", launchers=[[*mpi_command(site, 2), f"--nodes={nodes}"]])
    shape = JobShape(tasks=2, propagates_exit_code=True)
    (handle,) = submit_together(
        site,
        "cpu",
        [order],
        tmp_path / "logs",
        name="ranks",
        backend="tensorflow",
        folders=(str(tmp_path),),
        shape=shape,
    )
    wait_for(handle.ended, 120)
    log = handle.submission.log.read_text()
    assert read_attempt(tmp_path / "cell").exit_code == 0, log
    (answer,) = (json.loads(line) for line in log.splitlines() if line.startswith("{"))
    assert (answer["ranks"], len(set(answer["hosts"]))) == (2, nodes)


def test_an_image_that_the_node_lacks_ends_the_cell_with_a_line_that_says_so(cluster, runtime, make_campaign):
    if runtime.name == "apptainer":
        pytest.skip("a missing file is refused before submission")
    campaign = make_campaign(site=site_of(runtime, images={"tensorflow": "localhost/none:1"}), seeds=(0,))
    said = (
        rf"code 78: error: .*localhost/none:1: no such image for {runtime.name} on this machine; `{runtime.name} pull`"
    )
    with pytest.raises(CellsFailed, match=said):
        campaign.run(poll_s=0.1)


@pytest.mark.timeout(600)
def test_scans_that_cannot_be_prepared_are_the_cause_that_is_told_and_every_cell_is_a_row(cluster, runtime, tmp_path):
    """The tables are made in the image, which has no squeue: what became of the cells is asked on the host."""
    (tmp_path / "scans").mkdir()
    folder = tmp_path / "campaign"
    write_json(folder / "recipe.json", {"size": [32, 32, 16]})
    shards = folder / "shards"
    prepare = PrepareJob(dataset=tmp_path / "scans", output=shards, recipe=str(folder / "recipe.json"))
    sweep = Sweep(name="none", matrix=Matrix(model=("unet2d",), seed=(0, 1)))
    campaign = Campaign.create(folder, sweep, shards, site_of(runtime), prepare=prepare, collect=True)
    with pytest.raises(CellsFailed, match=r"its scans were not prepared \(code 65: error: .*scans.*; log: .*"):
        campaign.run(poll_s=0.2)
    runs = pq.read_table(folder / "tables" / "runs.parquet").to_pylist()
    assert [row["problem"][:34] for row in runs] == ["never began: not prepared: code 65"] * 2


def test_each_rank_in_an_image_knows_its_number(cluster, runtime, tmp_path):
    folder = tmp_path / "cell"
    says = ["sh", "-c", "echo rank $SLURM_PROCID of $SLURM_NTASKS"]
    order = CellSubmission("ranks", [says], folder, launchers=[["srun", "--overlap", "--overcommit", "-n", "2"]])
    (handle,) = submit_together(
        site_of(runtime),
        "cpu",
        [order],
        tmp_path / "logs",
        name="ranks",
        backend="tensorflow",
        folders=(str(tmp_path),),
    )
    wait_for(handle.ended, 60)
    said = handle.submission.log.read_text().splitlines()
    assert {line for line in said if line.startswith("rank")} == {"rank 0 of 2", "rank 1 of 2"}
    assert read_attempt(folder).exit_code == 0


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_real_cell_in_an_image_learns_what_it_learns_outside(
    cluster, runtime, small_shards, tmp_path, backend_needed
):
    sweep = Sweep(
        name="real",
        matrix=Matrix(model=("unet2d",)),
        models={"unet2d": {"base_width": 2}},
        training=TrainingSettings(epochs=2, batch_size=5, learning_rate=1e-2, loss="dice"),
        threads=1,
    )
    curves = {}
    bare = {"container": "none", "images": {}, "binds": ()}
    for name, values in {"inside": {}, "outside": bare}.items():
        campaign = Campaign.create(tmp_path / name, sweep, small_shards, site_of(runtime, **values))
        (state,) = campaign.run(poll_s=0.2)
        assert state.state == "done"
        folder = campaign.cells[0].train.run_folder
        paths = RunPaths(folder)
        curves[name] = read_rows(paths.epochs, EPOCHS).select(["epoch", "subset", "loss", "dice"]).to_pylist()
        found = read_json(paths.record, what="", remedy="")["provenance"]["image_digest"]
        assert found == (look_into(runtime.name, runtime.image).digest if name == "inside" else None)
        (row,) = collect(folder, tmp_path / f"{name}-tables").tables["runs"].to_pylist()
        job = read_submission(folder).job_id
        assert (row["slurm_job_id"], row["partition"], row["node"]) == (job, "cpu", read_attempt(folder).node)
        assert (row["commit"] == COMMIT) is (name == "inside")
        assert {path.stat().st_uid for path in folder.rglob("*")} == {os.getuid()}
    assert len(curves["inside"]) == 4
    assert curves["inside"] == curves["outside"]
