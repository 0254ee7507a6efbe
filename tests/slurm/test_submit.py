import os

import pytest

from mspipeline.campaigns.campaign import Campaign
from mspipeline.campaigns.site import Partition, Site
from mspipeline.campaigns.submission import read_submission
from mspipeline.campaigns.sweep import Matrix, Sweep
from mspipeline.config import TrainingSettings
from mspipeline.errors import ConfigError, Interrupted
from mspipeline.slurm.submission.parameters import parameters
from tests.campaigns.campaign_program import CELL_PROGRAM, cell_commands
from tests.campaigns.process_watch import processes_of, wait_for
from tests.campaigns.submitting import submit

# Programs of SLURM's names: sbatch starts the script at once on this machine, the others do the least that is needed.
PROGRAMS = {
    "sbatch": r"""
        number=$((100 + $(ls "$FAKE_SLURM" | grep -c script)))
        cp "$1" "$FAKE_SLURM/script.$number"
        last=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\).*/\1/p' "$1")
        export SLURM_JOB_ID=$number
        if [ -z "$last" ]; then
            setsid bash "$1" >/dev/null 2>&1 &
            echo $! > "$FAKE_SLURM/pid.$number"
        else
            for element in $(seq 0 "$last"); do
                SLURM_ARRAY_JOB_ID=$number SLURM_ARRAY_TASK_ID=$element setsid bash "$1" >/dev/null 2>&1 &
                echo $! > "$FAKE_SLURM/pid.${number}_$element"
            done
        fi
        echo "Submitted batch job $number"
        """,
    "srun": """
        while [ "${1#--}" != "$1" ]; do
            if [ "$1" = --output ]; then output=$2; shift; fi
            shift
        done
        output=${output//%A_%a/${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
        output=${output//%j/$SLURM_JOB_ID}
        exec "$@" >> "${output//%t/0}" 2>&1
        """,
    "squeue": """
        for file in "$FAKE_SLURM"/pid.*; do
            kill -0 "$(cat "$file")" 2>/dev/null && echo "${file##*.}|RUNNING|None"
        done
        exit 0
        """,
    "scontrol": """echo "JobState=CANCELLED Reason=None" """,
    "scancel": """
        for word in "$@"; do
            [ "${word#--}" != "$word" ] || kill -TERM -- "-$(cat "$FAKE_SLURM/pid.$word")"
        done
        """,
}
PARTITION = Partition(
    device="gpu", cpus=8, mem_gb=32, time_min=90, gres="gpu:t4:1", account="radiology", qos="preemptable"
)


@pytest.fixture
def fake_slurm(tmp_path, monkeypatch):
    folder = tmp_path / "fake-slurm"
    folder.mkdir()
    for name, text in PROGRAMS.items():
        program = folder / name
        program.write_text("#!/bin/bash\n" + text)
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    return folder


@pytest.fixture
def cluster_campaign(tmp_path, shards):
    def make(epochs):
        sweep = Sweep(
            name="tiny", matrix=Matrix(model=("unet2d",), seed=(0, 1)), training=TrainingSettings(epochs=epochs)
        )
        site = Site(name="cluster", executor="slurm", partitions={"gpu_t4": PARTITION})
        return Campaign.create(tmp_path / "campaign", sweep, shards, site)

    return make


SRUN = ["--export=ALL", "--kill-on-bad-exit=1", "--mpi=none"]


def test_a_partition_in_the_words_of_submitit():
    site = Site(name="cluster", executor="slurm", partitions={"gpu_t4": PARTITION})
    told = parameters(site, "cell", "gpu_t4", PARTITION)
    assert told.pop("setup")[-1] == 'export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"'
    assert told == {
        "job_name": "cell",
        "stderr_to_stdout": True,
        "partition": "gpu_t4",
        "time": 90,
        "cpus_per_task": 8,
        "mem": "32768M",
        "gres": "gpu:t4:1",
        "account": "radiology",
        "qos": "preemptable",
        "signal_delay_s": 90,
        "srun_args": [*SRUN, "--cpus-per-task=8", "--ntasks=1"],
        "wckey": None,
        "additional_parameters": {"requeue": True},
    }


def test_what_a_partition_leaves_open_is_left_to_the_scheduler():
    site = Site(name="cluster", executor="slurm", partitions={"cores": Partition()})
    told = parameters(site, "cell", "cores", Partition())
    assert told["srun_args"] == [*SRUN, "--ntasks=1"]
    assert {name for name, value in told.items() if value is not None} == {
        "job_name",
        "stderr_to_stdout",
        "partition",
        "signal_delay_s",
        "setup",
        "srun_args",
        "additional_parameters",
    }


def test_a_partition_that_names_no_account_or_qos_has_those_of_the_site():
    site = Site(name="c", executor="slurm", partitions={"a": Partition(qos="own")}, account="all", qos="all")
    told = parameters(site, "cell", "a", site.partitions["a"])
    assert (told["account"], told["qos"]) == ("all", "own")


@pytest.mark.parametrize(("count", "limit", "at_once"), [(10, 4, 4), (3, 4, 3), (3, None, 3), (1, 4, None)])
def test_an_array_runs_no_more_at_once_than_the_site_allows(count, limit, at_once):
    site = Site(name="c", executor="slurm", partitions={"a": Partition()}, max_parallel=limit)
    assert parameters(site, "cell", "a", Partition(), count).get("array_parallelism") == at_once


def test_a_site_that_needs_slurm_says_so_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    site = Site(name="cluster", executor="slurm", partitions={"cores": Partition()})
    with pytest.raises(ConfigError, match=r'site cluster: cannot submit one to slurm: Could not detect "srun"'):
        submit(site, "cpu", "one", [["true"]], tmp_path / "cell", tmp_path / "logs")


def test_a_refusal_of_sbatch_is_passed_on_in_one_line(tmp_path, fake_slurm):
    (fake_slurm / "sbatch").write_text("#!/bin/bash\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    site = Site(name="cluster", executor="slurm", partitions={"gpu_t4": PARTITION})
    with pytest.raises(ConfigError, match="sbatch: error: invalid partition") as refusal:
        submit(site, "gpu", "one", [["true"]], tmp_path / "cell", tmp_path / "logs")
    assert "\n" not in str(refusal.value)


def test_a_campaign_on_slurm_asks_for_the_partition_and_runs_its_cells(cluster_campaign, fake_slurm):
    campaign = cluster_campaign(epochs=2)
    campaign.run(commands=cell_commands(), poll_s=0.1)
    assert [state.state for state in campaign.state()] == ["done", "done"]
    script = (fake_slurm / "script.100").read_text()
    for line in ("partition=gpu_t4", "gres=gpu:t4:1", "cpus-per-task=8", "mem=32768M", "time=90", "account=radiology"):
        assert f"#SBATCH --{line}\n" in script
    assert "#SBATCH --job-name=tiny\n" in script
    assert "#SBATCH --array=0-1%2\n" in script
    assert str(CELL_PROGRAM) not in script  # the argv travels in the pickle, nothing else does
    assert read_submission(campaign.cells[0].train.run_folder).job_id == "100_0"


def test_ctrl_c_cancels_the_jobs_on_slurm_and_resume_continues_them(cluster_campaign, fake_slurm):
    campaign = cluster_campaign(epochs=8)

    def press_ctrl_c(table):
        if all(state.epoch for state in table):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        campaign.run(commands=cell_commands("--epoch-seconds", "0.3"), poll_s=0.1, observer=press_ctrl_c)
    assert [state.state for state in campaign.state()] == ["interrupted", "interrupted"]
    wait_for(lambda: processes_of(campaign.folder) == [])
    campaign.run(commands=cell_commands(), poll_s=0.1)
    assert (campaign.cells[0].train.run_folder / "epochs.txt").read_text().split() == [str(n) for n in range(1, 9)]
