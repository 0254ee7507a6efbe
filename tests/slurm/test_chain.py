"""Chains of jobs on the real test cluster: prepare, steps of cells, tables; several cells or processes in one job."""

import shlex
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mspipeline.campaigns.attempt import read_attempt
from mspipeline.campaigns.campaign import Campaign
from mspipeline.campaigns.cancel import cancel
from mspipeline.campaigns.follow import CellsFailed
from mspipeline.campaigns.gaps import wait_for_answer, write_gaps
from mspipeline.campaigns.scripts import write_scripts
from mspipeline.campaigns.site import Partition, Site
from mspipeline.campaigns.submission import read_submission
from mspipeline.campaigns.sweep import EvaluateSettings, Matrix, PrepareSettings, Sweep
from mspipeline.collect.tables import collect
from mspipeline.config import PrepareJob, TrainingSettings
from mspipeline.files import read_json, write_json
from mspipeline.slurm.submission.queue import QUEUE
from tests.campaigns.campaign_program import cell_commands
from tests.campaigns.process_watch import processes_of, wait_for

pytestmark = pytest.mark.slurm

CPU = Partition(cpus=1, mem_gb=1, time_min=5)
GPU = Partition(device="gpu", cpus=1, mem_gb=0.5, time_min=5, gres="gpu:t4:1")
SITE = Site(name="cluster", executor="slurm", partitions={"cpu": CPU}, warn_s=30, mpi_plugin="pmi2")
FIRST, SECOND = "unet2d-tensorflow-s0", "unet2d-tensorflow-s1"


def make(tmp_path, shards, site=SITE, dataset=None, **changes):
    """A campaign of two U-Net cells; with a dataset, one that prepares it first and makes tables in the end."""
    values = {"matrix": Matrix(model=("unet2d",), seed=(0, 1)), "training": TrainingSettings(epochs=3)} | changes
    folder = tmp_path / "campaign"
    prepare = None
    if dataset is not None:
        write_json(folder / "recipe.json", {"size": [32, 32, 16]})
        shards = folder / "shards"
        prepare = PrepareJob(dataset=dataset, output=shards, recipe=str(folder / "recipe.json"))
    return Campaign.create(
        folder, Sweep(name="tiny", **values), shards, site, prepare=prepare, collect=dataset is not None
    )


def lines(campaign, cell, name):
    path = campaign.folder / "cells" / cell / name
    return path.read_text().splitlines() if path.exists() else []


def states(campaign):
    return [state.state for state in campaign.state()]


def queue_is_empty(cluster, seconds=120):
    wait_for(lambda: cluster.run("squeue", "-h") == "", seconds)


def test_the_whole_chain_is_submitted_at_once_and_runs_to_its_tables_while_nobody_stays(
    cluster, tmp_path, small_dataset
):
    site = SITE.model_copy(update={"partitions": {"cpu": CPU, "gpu_t4": GPU}})
    campaign = make(
        tmp_path,
        None,
        site,
        small_dataset,
        separate_jobs=True,
        prepare=PrepareSettings(ranks=2),
        matrix=Matrix(model=("unet2d",), seed=(0, 1), device=("gpu",)),
        evaluate=EvaluateSettings(device="cpu"),
    )
    assert not campaign.record.manifest
    told = campaign.submit(commands=cell_commands("--epoch-seconds", "0.1"))
    assert {state.message for state in told} <= {"waiting for the preparation", "training"}
    queued = dict(line.split("|") for line in cluster.run("squeue", "-h", "-o", "%j|%P").splitlines())
    assert queued == {"prepare": "cpu", "tiny-train": "gpu_t4", "tiny-evaluate": "cpu", "collect": "cpu"}
    queue_is_empty(cluster)

    assert states(campaign) == ["done", "done"]
    assert lines(campaign, FIRST, "starts.txt") == ["train", "evaluate"]
    assert "rank 1" in read_attempt(campaign.folder / "prepare").log.read_text()
    assert set(Campaign.open(campaign.folder).prepared().record.manifest) == {
        "dataset_hash",
        "recipe_hash",
        "split_hash",
    }
    runs = pq.read_table(campaign.folder / "tables" / "runs.parquet").to_pylist()
    assert sorted(row["status"] for row in runs) == ["complete", "complete"]
    assert campaign.run() == campaign.state()  # nothing is left to do


def test_scans_that_cannot_be_prepared_end_the_campaign_once_and_every_cell_is_a_row_that_says_so(cluster, tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    campaign = make(tmp_path, None, dataset=scans)
    with pytest.raises(CellsFailed, match=r"its scans were not prepared \(code 65: error: .*scans.*mspipeline resume"):
        campaign.run(commands=cell_commands(), poll_s=0.1)
    assert cluster.run("squeue", "-h") == ""
    assert [state.message[:21] for state in campaign.state()] == ["not prepared: code 65"] * 2
    assert not (campaign.folder / "cells" / FIRST / "starts.txt").exists()
    runs = pq.read_table(campaign.folder / "tables" / "runs.parquet").to_pylist()
    assert [row["problem"][:34] for row in runs] == ["never began: not prepared: code 65"] * 2


def test_the_cause_is_told_and_not_that_there_are_no_tables_where_there_are_no_scans(cluster, tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    campaign = make(tmp_path, None, dataset=scans)
    (campaign.folder / "tables").write_text("a file where the tables would go")
    with pytest.raises(CellsFailed, match=r"its scans were not prepared \(code 65: error: .*; log: .*prepare"):
        campaign.run(commands=cell_commands(), poll_s=0.1)
    log = read_submission(campaign.folder / "prepare").log
    assert {state.message.partition("log: ")[2] for state in campaign.state()} == {str(log)}


def test_a_cell_of_which_slurm_does_not_tell_is_a_row_that_says_so(cluster, tmp_path, shards, monkeypatch):
    campaign = make(tmp_path, shards, matrix=Matrix(model=("unet2d",)))
    recipe = {"size": [32, 32, 16]}
    write_json(shards / "manifest.json", {**read_json(shards / "manifest.json", what="", remedy=""), "recipe": recipe})
    cluster.run("scontrol", "update", "partitionname=cpu", "state=down")  # it stays in the queue
    try:
        campaign.submit(commands=cell_commands())
        assert write_gaps(campaign) == []
        monkeypatch.setenv("SLURM_CONF", "/dev/null")
        QUEUE.forget()
        assert not wait_for_answer(campaign.scheduler, tries=2, pause_s=0.1)
        assert write_gaps(campaign) == [FIRST]
        (row,) = collect(campaign.folder, tmp_path / "tables").tables["runs"].to_pylist()
        assert (row["status"], row["problem"]) == (
            "interrupted",
            "unknown: SLURM did not answer when the tables were made",
        )
    finally:
        monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
        QUEUE.forget()
        cluster.run("scontrol", "update", "partitionname=cpu", "state=up")


def test_a_cell_whose_training_failed_is_not_evaluated_and_the_other_one_is(cluster, tmp_path, shards):
    campaign = make(tmp_path, shards, separate_jobs=True)
    with pytest.raises(CellsFailed, match=rf"1 of 2 cells failed: {FIRST} \(code 65: error: sub-01"):
        campaign.run(commands=cell_commands("--fail-seed", "0"), poll_s=0.1)
    assert states(campaign) == ["failed", "done"]
    assert lines(campaign, SECOND, "starts.txt") == ["train", "evaluate"]
    queue_is_empty(cluster)
    assert lines(campaign, FIRST, "starts.txt") == []


def test_cancel_takes_the_whole_chain_out_of_the_queue_and_resume_completes_it(cluster, tmp_path, small_dataset):
    campaign = make(tmp_path, None, dataset=small_dataset, separate_jobs=True)
    campaign.submit(commands=cell_commands("--epoch-seconds", "0.5"))
    wait_for(lambda: lines(campaign, FIRST, "epochs.txt"), 60)
    assert [state.state for state in cancel(campaign, grace_s=60)] == ["interrupted", "interrupted"]
    queue_is_empty(cluster)
    assert not (campaign.folder / "tables").exists()
    Campaign.open(campaign.folder).run(commands=cell_commands(), poll_s=0.1)
    assert states(campaign) == ["done", "done"]
    assert lines(campaign, FIRST, "epochs.txt") == ["1", "2", "3"]
    assert (campaign.folder / "tables" / "runs.parquet").exists()


def test_cells_packed_in_one_job_have_their_own_logs_and_are_all_preempted_and_continued(cluster, tmp_path, shards):
    packed = CPU.model_copy(update={"pack": 2})
    site = SITE.model_copy(update={"partitions": {"cpu": packed}})
    campaign = make(
        tmp_path,
        shards,
        site,
        matrix=Matrix(model=("unet2d",), seed=(0, 1, 2)),
        training=TrainingSettings(epochs=10),
    )
    campaign.submit(commands=cell_commands("--epoch-seconds", "0.4"))
    jobs = [read_submission(cell.train.run_folder) for cell in campaign.cells]
    assert [job.job_id.partition("_")[2] for job in jobs] == ["0", "0", "1"]
    assert "|2|" in cluster.run("squeue", "-h", "-r", "-j", jobs[0].job_id, "-o", "|%C|")
    wait_for(lambda: all(lines(campaign, cell, "epochs.txt") for cell in (FIRST, SECOND)), 60)
    cluster.run("scontrol", "requeue", jobs[0].job_id)
    wait_for(lambda: all(lines(campaign, cell, "stopped.txt") for cell in (FIRST, SECOND)), 60)
    cluster.start_again(jobs[0].job_id)
    queue_is_empty(cluster)
    assert states(campaign) == ["done"] * 3
    for cell in (FIRST, SECOND):
        assert lines(campaign, cell, "epochs.txt") == [str(epoch) for epoch in range(1, 11)]
        record = read_attempt(campaign.folder / "cells" / cell)
        assert (record.attempt, record.log.name) == (1, f"{cell}.log")
    assert not list(campaign.folder.rglob("two-at-once"))


RANK = """
trap 'echo $SLURM_PROCID stopped >> {cell}/said; exit 75' TERM
echo $SLURM_PROCID of $SLURM_NTASKS >> {cell}/said
[ "$SLURM_RESTART_COUNT" = 1 ] && exit 0
while :; do sleep 0.1; done
"""


def test_the_processes_of_one_cell_start_together_and_are_stopped_together_and_evaluation_is_one_process(
    cluster, tmp_path, shards
):
    campaign = make(tmp_path, shards, matrix=Matrix(model=("unet2d",), processes=(2,)))
    folder = campaign.cells[0].train.run_folder
    said = folder / "said"

    def commands(cell):
        train = ["bash", "-c", RANK.format(cell=shlex.quote(str(folder)))]
        return [train, ["bash", "-c", f"echo evaluate >> {shlex.quote(str(said))}"]]

    campaign.submit(commands=commands)
    job = read_submission(folder).job_id
    wait_for(lambda: said.exists() and len(said.read_text().splitlines()) == 2, 60)
    assert sorted(said.read_text().splitlines()) == ["0 of 2", "1 of 2"]
    cluster.run("scontrol", "requeue", job)
    wait_for(lambda: said.read_text().count("stopped") == 2, 60)
    cluster.start_again(job)
    queue_is_empty(cluster)
    assert sorted(said.read_text().splitlines()[4:-1]) == ["0 of 2", "1 of 2"]
    assert said.read_text().splitlines()[-1] == "evaluate"
    assert read_attempt(folder).exit_code == 0
    assert processes_of(tmp_path) == []


def test_slurm_would_take_every_script_of_a_dry_run_and_nothing_is_submitted(cluster, tmp_path, small_dataset):
    site = SITE.model_copy(update={"partitions": {"cpu": CPU.model_copy(update={"pack": 2}), "gpu_t4": GPU}})
    matrix = Matrix(model=("unet2d",), device=("cpu", "gpu"), processes=(1, 2), seed=(0, 1))
    campaign = make(tmp_path, None, site, small_dataset, separate_jobs=True, matrix=matrix)
    scripts = write_scripts(campaign)
    assert [path.stem for path in scripts] == [
        "01-prepare",
        *(
            f"{2 + 2 * n + k:02}-{step}-{where}"
            for n, where in enumerate(["cpu", "cpu", "gpu_t4", "gpu_t4"])
            for k, step in enumerate(["train", "evaluate"])
        ),
        "10-collect",
    ]
    for script in scripts:
        cluster.run("sbatch", "--test-only", str(script))
    assert cluster.run("squeue", "-h") == ""
    assert not (campaign.folder / "logs").exists()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_cell_of_two_processes_goes_from_scans_to_tables_on_slurm(
    cluster, tmp_path, small_dataset, monkeypatch, backend_needed
):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # the nodes of this cluster have no names of their own
    sweep = tmp_path / "tiny.toml"
    sweep.write_text(
        'name = "tiny"\nthreads = 1\nseparate_jobs = true\n[prepare]\nranks = 2\n[matrix]\nmodel = ["unet2d"]\n'
        "processes = [2]\n[models.unet2d]\nbase_width = 2\n[training]\nepochs = 1\nbatch_size = 4\n"
    )
    site = tmp_path / "site.toml"
    site.write_text(
        'name = "c"\nexecutor = "slurm"\nwarn_s = 30\n[partitions.cpu]\ncpus = 1\nmem_gb = 1.5\ntime_min = 10\n'
    )
    command = [str(Path(sys.executable).with_name("mspipeline")), "sweep", str(sweep), "--data", str(small_dataset)]
    given = ["--set", "size=[32,32,16]", "--site", str(site), "-o", str(tmp_path / "out")]
    cluster.run(*command, *given)
    runs = pq.read_table(tmp_path / "out" / "tables" / "runs.parquet").to_pylist()
    assert [row["status"] for row in runs] == ["complete"]
    assert pq.read_table(tmp_path / "out" / "tables" / "cases.parquet").num_rows == 2


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_stages_of_a_cascade_are_dependent_jobs(cluster, tmp_path, small_dataset, backend_needed):
    sweep = tmp_path / "cascade.toml"
    sweep.write_text(
        'name = "cascade"\nthreads = 1\nseparate_jobs = true\n[matrix]\nmodel = ["cascade3d"]\nseed = [0, 1]\n'
        "[models.cascade3d]\nbase_width = 2\n[training]\nepochs = 1\n"
    )
    site = tmp_path / "site.toml"
    site.write_text(
        'name = "c"\nexecutor = "slurm"\nwarn_s = 30\n[partitions.cpu]\ncpus = 1\nmem_gb = 1.5\ntime_min = 10\n'
    )
    command = [str(Path(sys.executable).with_name("mspipeline")), "sweep", str(sweep), "--data", str(small_dataset)]
    cluster.run(*command, "--recipe", "patches3d", "--site", str(site), "-o", str(tmp_path / "out"))
    runs = pq.read_table(tmp_path / "out" / "tables" / "runs.parquet").to_pylist()
    assert [(row["status"], row["epochs"]) for row in runs] == [("complete", 2)] * 2
    stages = pq.read_table(tmp_path / "out" / "tables" / "epochs.parquet", columns=["stage"])["stage"].to_pylist()
    assert sorted(stages) == [1] * 4 + [2] * 4  # two cells, training and validation
    jobs = {path.name for path in (tmp_path / "out" / "cells").glob("*/jobs/*")}
    assert {"train-stage1.json", "train-stage2.json", "evaluate.json"} <= jobs
