"""Jobs on a cluster that binds tasks to their cores and enforces wckeys (cluster.py)."""

import os
import shlex
import sys

import pytest

from mspipeline.campaigns.attempt import read_attempt
from mspipeline.campaigns.job_shape import JobShape
from mspipeline.campaigns.site import Partition, Site
from mspipeline.campaigns.submission import CellSubmission
from mspipeline.errors import ConfigError
from mspipeline.slurm.checks.options_check import option_findings
from mspipeline.slurm.checks.probe import probe_site
from mspipeline.slurm.checks.site_check import check_site
from mspipeline.slurm.srun import srun_words
from tests.campaigns.process_watch import wait_for
from tests.campaigns.submitting import submit_together
from tests.slurm.cluster import missing_packages, start_cluster
from tests.slurm.cluster_keeper import WCKEY, ClusterError
from tests.slurm.test_sbatch import MEMORY, SCRIPTS

pytestmark = pytest.mark.slurm

CORES = "import os; print('cores', len(os.sched_getaffinity(0)), os.environ['SLURM_CPUS_PER_TASK'])"
COUNT = [sys.executable, "-c", CORES]


@pytest.fixture(scope="module")
def strict():
    if missing := missing_packages():
        pytest.skip(f"no SLURM here; apt-get install -y --no-install-recommends {' '.join(missing)}")
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core cannot tell a task that is bound to one from another; needs two")
    with start_cluster(strict=True) as cluster:
        yield cluster


@pytest.fixture
def cluster(strict, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM", "SBATCH", "SUBMITIT"))]:
        monkeypatch.delenv(name)
    for name, value in strict.environment.items():
        monkeypatch.setenv(name, value)
    yield strict
    strict.reset()


def site(**values):
    cpu = Partition(cpus=2, mem_gb=0.5, time_min=5)
    return Site(**{"name": "strict", "executor": "slurm", "partitions": {"cpu": cpu}, "warn_s": 30, **values})


def done(tmp_path, command, where=None, *, shape=None, launcher=(), cells=1, name="one"):
    """What cells of one job wrote to their logs, once it is over."""
    folders = [tmp_path / f"{name}-{number}" for number in range(cells)]
    orders = [CellSubmission(folder.name, [command], folder, launchers=[launcher]) for folder in folders]
    given = {"shape": shape} if shape else {}
    handles = submit_together(where or site(), "cpu", orders, tmp_path / f"logs-{name}", name=name, **given)
    for handle in handles:
        wait_for(handle.ended, 60)
    assert [read_attempt(folder).exit_code for folder in folders] == [0] * cells
    return [handle.submission.log.read_text().splitlines() for handle in handles]


def said(logs):
    return sorted(line for log in logs for line in log if line.startswith("cores "))


def test_this_cluster_binds_a_step_to_one_core_unless_it_is_asked_for_more(cluster, tmp_path):
    script = tmp_path / "script"
    script.write_text(f'#!/bin/bash\nsrun {sys.executable} -c "import os; print(len(os.sched_getaffinity(0)))"\n')
    log = tmp_path / "log"
    cluster.run("sbatch", "--wait", "-p", "cpu", "--cpus-per-task=2", f"--output={log}", str(script))
    assert log.read_text() == "1\n"


def test_a_cell_has_the_cores_that_its_partition_names(cluster, tmp_path):
    assert said(done(tmp_path, COUNT)) == ["cores 2 2"]


def test_a_cell_that_ends_with_its_own_code_has_them_too(cluster, tmp_path):
    assert said(done(tmp_path, COUNT, shape=JobShape(propagates_exit_code=True))) == ["cores 2 2"]


def test_where_the_partition_names_none_a_cell_has_what_slurm_gave_it(cluster, tmp_path):
    where = site(partitions={"cpu": Partition(time_min=5)}, sbatch={"mincpus": 2})
    assert said(done(tmp_path, COUNT, where)) == ["cores 2 2"]


@pytest.mark.parametrize(
    ("binding", "state", "words"),
    [
        ("cores", "ok", "the task has the 2 that it asked for"),
        ("map_cpu:0", "broken", "2 were asked for and the task is bound to 1: cells would be as slow as that"),
    ],
)
def test_a_probe_compares_the_cores_that_it_has_with_those_that_it_asked_for(
    cluster, tmp_path, monkeypatch, binding, state, words
):
    monkeypatch.setenv("SLURM_CPU_BIND", binding)
    (cores,) = (each for each in probe_site(site(), tmp_path) if each.what.endswith(": cores"))
    assert (cores.state, cores.detail) == (state, words)


def test_packed_cells_share_the_cores_of_their_job(cluster, tmp_path):
    where = site(partitions={"cpu": Partition(cpus=1, mem_gb=0.5, time_min=5)})
    assert said(done(tmp_path, COUNT, where, shape=JobShape(pack=2), cells=2)) == ["cores 1 1"] * 2


def test_each_process_of_a_cell_has_its_own_cores(cluster, tmp_path):
    launcher = [*srun_words(mpi="none", cpus=2), "--ntasks=2"]
    assert said(done(tmp_path, COUNT, shape=JobShape(tasks=2), launcher=launcher)) == ["cores 2 2"] * 2


def test_a_cell_runs_once_where_the_sweep_was_started_inside_a_job_of_other_cores_and_tasks(
    cluster, tmp_path, monkeypatch
):
    inside = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "2", "SRUN_CPUS_PER_TASK": "1", "SLURM_CPU_BIND": "none"}
    for name, value in inside.items():
        monkeypatch.setenv(name, value)
    assert said(done(tmp_path, COUNT)) == ["cores 2 2"]
    assert os.environ["SLURM_NTASKS"] == "2"


@pytest.mark.parametrize("variable", ["SLURM_EXPORT_ENV", "SBATCH_EXPORT"])
def test_what_a_script_sets_reaches_the_cell_where_jobs_are_given_no_environment(
    cluster, tmp_path, monkeypatch, variable
):
    monkeypatch.setenv(variable, "NONE")
    assert said(done(tmp_path, COUNT)) == ["cores 2 2"]


def test_a_cluster_that_enforces_wckeys_refuses_a_wrong_one_and_takes_the_users_own_or_the_sites(cluster, tmp_path):
    with pytest.raises(ClusterError, match="Invalid wckey"):
        cluster.run("sbatch", "--wckey=submitit", "--output=/dev/null", "--wrap", "true")
    show = ["bash", "-c", "scontrol show job --oneliner $SLURM_JOB_ID"]
    (log,) = done(tmp_path, show, name="own")
    assert f" WCKey=*{WCKEY} " in "".join(log)
    (log,) = done(tmp_path, show, site(sbatch={"wckey": WCKEY}), name="named")
    assert f" WCKey={WCKEY} " in "".join(log)
    with pytest.raises(ConfigError, match="Invalid wckey specification"):
        done(tmp_path, show, site(sbatch={"wckey": "other"}), name="other")


def test_a_site_s_options_reach_sbatch_as_they_are_written(cluster, tmp_path):
    partitions = {"cpu": Partition(cpus=1, mem_gb=0.5, time_min=5, sbatch={"constraint": "on-c2", "nice": 7})}
    options = {"mail_user": "ada@example.org", "mail_type": "FAIL,TIME_LIMIT", "comment": 'it\'s a "word" or two'}
    show = ["bash", "-c", "echo node $SLURMD_NODENAME; scontrol show job $SLURM_JOB_ID"]
    (log,) = done(tmp_path, show, site(partitions=partitions, sbatch=options))
    assert "node c2" in log
    shown = [line.strip() for line in log]
    assert 'Comment=it\'s a "word" or two' in shown
    assert "MailUser=ada@example.org MailType=FAIL,TIME_LIMIT" in shown
    assert any("Nice=7 " in line for line in shown)
    with pytest.raises(ConfigError, match="Requested reservation is invalid"):
        done(tmp_path, show, site(sbatch={"reservation": "none-such"}), name="reserved")


@pytest.mark.parametrize("name", sorted(path.name for path in SCRIPTS.glob("*.sbatch")))
def test_the_scripts_for_plain_sbatch_give_their_step_the_cores_of_the_job(cluster, tmp_path, monkeypatch, name):
    stand_in = tmp_path / "mspipeline"
    stand_in.write_text(f'#!/bin/bash\n[ "$1" = report ] || exec {sys.executable} -c {shlex.quote(CORES)}\n')
    stand_in.chmod(0o755)
    monkeypatch.setenv("MSPIPELINE", str(stand_in))
    asked = ("--array=0-0", "--ntasks=1", "--cpus-per-task=2", *MEMORY.get(name, ["--mem=500M"]))
    cluster.run(
        "sbatch",
        "--wait",
        "-p",
        "cpu",
        *asked,
        f"--output={tmp_path}/log",
        str(SCRIPTS / name),
        "a",
        "b",
        str(tmp_path / "nights"),
    )
    assert said([(tmp_path / "log").read_text().splitlines()]) == ["cores 2 2"]


@pytest.mark.parametrize(
    ("options", "state", "words"),
    [
        (
            {"wckey": WCKEY, "constraint": "on-c2", "comment": "two words"},
            "ok",
            "--constraint=on-c2 --comment=two words: ",
        ),
        ({"wckey": "other"}, "broken", "Invalid wckey specification"),
        ({"reservation": "none-such"}, "broken", "Requested reservation is invalid"),
        ({"constraint": "a100"}, "broken", "Invalid feature specification"),
    ],
)
def test_options_that_sbatch_would_refuse_are_told_before_anything_is_submitted(cluster, options, state, words):
    (found,) = option_findings(site(sbatch=options))
    assert (found.what, found.state) == ("sbatch options of 'cpu'", state)
    assert words in found.detail
    if state == "broken":
        with pytest.raises(ConfigError, match="site strict: sbatch options of 'cpu'"):
            check_site(site(sbatch=options))
    assert cluster.run("squeue", "-h") == ""
