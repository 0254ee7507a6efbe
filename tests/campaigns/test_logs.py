"""mspipeline.campaigns.logs: what a cell's programs wrote, attempt after attempt, and `mspipeline logs`."""

import json
import subprocess
import sys

import pytest

from mspipeline.campaigns.attempt import read_attempts
from mspipeline.campaigns.cells import cells
from mspipeline.campaigns.logs import LogReader, find_cell, parts
from mspipeline.campaigns.sweep import Matrix, Sweep
from mspipeline.errors import UsageError
from mspipeline.recipes.catalogue import load_recipe

SLICES = load_recipe("slices2d")

MSPIPELINE = [sys.executable, "-c", "from mspipeline.cli import main; main()"]


def write_attempts(cell, *changes):
    """The attempts of a cell, the last of them in cell.json; each goes on where another program would have put it."""
    records = [
        {
            "attempt": number,
            "job_id": "7",
            "host": "login",
            "node": "c1",
            "pid": 1,
            "pid_created": 1.0,
            "started_utc": f"2030-01-01T1{number}:00:00+00:00",
            "exit_code": 75,
            **change,
        }
        for number, change in enumerate(changes)
    ]
    folder = cell.train.run_folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cell.json").write_text(json.dumps(records[-1]))
    (folder / "earlier.json").write_text(json.dumps(records[:-1]))


@pytest.fixture
def cell(tmp_path):
    (cell,) = cells(Sweep(name="x", matrix=Matrix(model=("unet2d",))), tmp_path / "shards", tmp_path, SLICES)
    return cell


def told(reader, *, last=True):
    return [(part.attempt, line) for part, line in reader.new(last=last)]


def test_attempts_of_one_job_share_a_log_and_another_job_has_its_own(cell, tmp_path):
    shared, other = tmp_path / "7.out", tmp_path / "8.out"
    shared.write_text("submitit INFO (x) - Starting\nepoch 1\nsubmitit INFO - Requeued\nepoch 2\nepoch 3\n")
    other.write_text("epoch 4\nno end")
    second = shared.read_text().index("epoch 2")
    write_attempts(
        cell, {"log": str(shared)}, {"log": str(shared), "log_start": second}, {"log": str(other), "job_id": "8"}
    )
    lines = [(0, "epoch 1"), (1, "epoch 2"), (1, "epoch 3"), (2, "epoch 4"), (2, "no end")]
    assert told(LogReader(cell)) == lines
    assert told(LogReader(cell), last=False) == lines[:-1]
    assert told(LogReader(cell, attempt=1)) == lines[1:3]
    titles = [part.title for part in parts(cell.train.run_folder)]
    assert titles[1] == f"attempt 1 on c1, job 7, begun 2030-01-01T11:00:00 UTC, ended with code 75: {shared}"


def test_a_line_is_read_once_whichever_attempt_turns_out_to_have_written_it(cell, tmp_path):
    log = tmp_path / "7.out"
    log.write_text("one\ntwo")
    write_attempts(cell, {"log": str(log), "exit_code": None})
    reader = LogReader(cell)
    assert told(reader, last=False) == [(0, "one")]
    log.write_text("one\ntwo\nthree\n")
    assert told(reader, last=False) == [(0, "two"), (0, "three")]
    log.write_text("one\ntwo\nthree\nfour\n")
    write_attempts(cell, {"log": str(log)}, {"log": str(log), "log_start": len("one\ntwo\n"), "exit_code": None})
    assert told(reader, last=True) == [(1, "four")]


def test_what_sbatch_wrote_of_a_job_that_did_not_begin_is_shown(cell, tmp_path):
    log = tmp_path / "9.out"
    log.write_text("submitit ERROR no such environment\n")
    cell.train.run_folder.mkdir(parents=True)
    submission = {"executor": "slurm", "job_id": "9", "host": "login", "pid": None, "pid_created": None}
    submission |= {"logs": str(tmp_path), "log": str(log), "submitted_utc": "2030-01-01T12:00:00+00:00"}
    (cell.train.run_folder / "submission.json").write_text(json.dumps(submission))
    assert told(LogReader(cell)) == [(None, "submitit ERROR no such environment")]
    with pytest.raises(UsageError, match="no attempt 0; it has none yet"):
        LogReader(cell, attempt=0)


def test_a_cell_is_found_by_its_name_its_beginning_or_a_part_of_it(tmp_path):
    sweep = Sweep(name="x", matrix=Matrix(model=("unet2d", "double_unet"), seed=(1, 12)))
    several = cells(sweep, tmp_path / "shards", tmp_path, SLICES)
    assert find_cell(several, "unet2d-tensorflow-s1", tmp_path).id == "unet2d-tensorflow-s1"
    assert find_cell(several, "double_unet-tensorflow-s12", tmp_path).id == "double_unet-tensorflow-s12"
    assert find_cell(several[:3], "double", tmp_path).id == "double_unet-tensorflow-s1"
    assert find_cell(several[:2], "s12", tmp_path).id == "unet2d-tensorflow-s12"
    with pytest.raises(UsageError, match="'s12' is 2 cells: unet2d-tensorflow-s12, double_unet-tensorflow-s12; write"):
        find_cell(several, "s12", tmp_path)
    with pytest.raises(UsageError, match=r"no cell 'unet2-tensorflow-s12' in .*did you mean unet2d-tensorflow-s12 or"):
        find_cell(several, "unet2-tensorflow-s12", tmp_path)


def command(*words):
    return subprocess.run([*MSPIPELINE, *map(str, words)], capture_output=True, text=True, check=False)


def test_the_command_prints_every_attempt_of_a_cell_that_ran_twice(make_campaign):
    campaign = make_campaign(seeds=(0,))
    cell = campaign.cells[0]
    for text in ("first\\nwords", "second"):
        script = f"printf '{text}\\n'; exit 75"
        with pytest.raises(Exception, match="ended early"):
            campaign.run(commands=lambda cell, script=script: [["bash", "-c", script]], poll_s=0.05)
    assert [record.exit_code for record in read_attempts(cell.train.run_folder)] == [75, 75]
    done = command("logs", campaign.folder, "s0")
    assert (done.returncode, done.stdout) == (0, "first\nwords\nsecond\n")
    assert [line.split(",")[0] for line in done.stderr.splitlines()] == [
        f"==> attempt {number} on {read_attempts(cell.train.run_folder)[0].host}" for number in (0, 1)
    ]
    followed = command("logs", campaign.folder, "s0", "-f", "-n", "1")
    assert (followed.returncode, followed.stdout) == (0, "second\n")
    assert followed.stderr.endswith(f"{cell.id}: interrupted: stopped with code 75: second\n")


def test_the_command_says_in_a_line_that_there_is_no_log_and_which_cells_there_are(make_campaign):
    campaign = make_campaign(seeds=(0,))
    nothing = command("logs", campaign.folder, "unet2d")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert nothing.stderr == "unet2d-tensorflow-s0: has no log yet (pending)\n"
    wrong = command("logs", campaign.folder, "unet3d-tensorflow-s0")
    assert wrong.returncode == 2
    assert "did you mean unet2d-tensorflow-s0?" in wrong.stderr
    assert command("logs", campaign.folder, "unet2d", "-f", "--attempt", "0").returncode == 2
