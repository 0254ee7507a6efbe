"""mspipeline.jobs.registry: the suite's jobs, and those of packages as a container runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from mspipeline.errors import ConfigError, FolderInUse, Preempted, UsageError
from mspipeline.jobs.registry import JOBS
from mspipeline.runs import RunPaths
from tests.command_line import Ended
from tests.installed_package import install

ENTRY_POINTS = """\
[mspipeline.jobs]
count_voxels = job:JOB
another_name = job:JOB
other_settings = job:OTHER_SETTINGS
supervise = job:JOB
train = job:JOB
nothing_runs = broken_job:JOB
unlicensed = broken:JOB
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages with one of ours in it, as an installer leaves it."""
    folder = tmp_path_factory.mktemp("installed")
    install(folder, "example-jobs", ENTRY_POINTS, "job", "broken_job", "broken")
    return folder


@pytest.fixture
def config(small_shards: Path, tmp_path: Path) -> Path:
    file = tmp_path / "count.json"
    file.write_text(json.dumps({"shards": str(small_shards), "output": str(tmp_path / "count")}))
    return file


def start(installed: Path, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "mspipeline.jobs", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])},
    )


def job(installed: Path, *words: object) -> Ended:
    process = start(installed, *words)
    output, errors = process.communicate(timeout=120)
    return Ended(process.returncode, output, errors)


def test_each_file_of_the_folder_is_a_job_by_its_name() -> None:
    assert list(JOBS.built_in) == ["certify", "collect", "evaluate", "predict", "prepare", "train"]
    assert all(each.name == name for name, each in JOBS.built_in.items())
    assert {name for name, each in JOBS.built_in.items() if each.watched} == {"evaluate", "predict", "train"}
    assert {name for name, each in JOBS.built_in.items() if each.holds_its_folder} == {"evaluate", "train"}


def test_what_does_the_work_is_not_loaded_to_launch_a_job() -> None:
    code = (
        "import sys, mspipeline.jobs.process.launch; "
        "print(*sorted(each for each in sys.modules if each.startswith(('mspipeline.jobs.work', 'h5py', 'scipy'))))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_job_of_another_package_runs_under_the_supervisor_with_telemetry(
    installed: Path, config: Path, tmp_path: Path
) -> None:
    for attempt in (0, 1):
        ended = job(installed, "supervise", "count_voxels", config)
        assert (ended.code, ended.stderr) == (0, "")
        found = json.loads((tmp_path / "count/voxels.json").read_text())
        assert found["attempt"] == attempt
        assert len(found["voxels"]) > 3
        assert all(voxels and voxels % (32 * 32) == 0 for voxels in found["voxels"].values())
    first, second = RunPaths(tmp_path / "count").attempts("count_voxels")
    assert (first.job, first.attempt, second.attempt) == ("count_voxels", 0, 1)
    assert json.loads(second.exit.read_text())["exit_code"] == 0
    assert json.loads(second.config.read_text())["output"] == str(tmp_path / "count")
    stream = pa.ipc.open_stream(second.events.read_bytes()).read_all()
    events = stream.select(["run_id", "kind", "phase"]).to_pylist()
    assert [tuple(row.values()) for row in events] == [
        ("count", "begin", "prepare"),
        ("count", "end", "prepare"),
    ]


def test_it_is_stopped_as_every_job_is_and_a_second_one_is_refused_meanwhile(
    installed: Path, config: Path, tmp_path: Path
) -> None:
    config.write_text(json.dumps({**json.loads(config.read_text()), "wait": True}))
    process = start(installed, "supervise", "count_voxels", config)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "count/voxels.json").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        other = job(installed, "count_voxels", config)
        assert other.code == FolderInUse.exit_code
        assert "another count_voxels works on this run" in other.error
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == Preempted.exit_code
    assert errors == "error: stopped by SIGTERM, the counts so far are kept; run the same command again\n"
    (attempt,) = RunPaths(tmp_path / "count").attempts()
    assert json.loads(attempt.exit.read_text())["exit_code"] == Preempted.exit_code


def test_its_settings_are_held_to_its_own_schema(installed: Path, config: Path) -> None:
    config.write_text('{"shards": "s", "outputs": "o"}')
    ended = job(installed, "count_voxels", config)
    assert ended.code == ConfigError.exit_code
    assert ended.error.startswith(f"{config}: output: field required; unknown key 'outputs'; did you mean 'output'?")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unlicensed", "broken:JOB cannot be used (RuntimeError: licence not found)"),
        ("nothing_runs", "missing 1 required positional argument: 'run'"),
        ("another_name", "its name is 'count_voxels', expected the name of its entry point, 'another_name'"),
        ("other_settings", "its schema is <class 'dict'>, expected a subclass of mspipeline.config.strict.Strict"),
    ],
)
def test_one_that_cannot_be_used_is_named_when_it_is_asked_for(
    installed: Path, config: Path, name: str, words: str
) -> None:
    ended = job(installed, name, config)
    assert ended.code == ConfigError.exit_code
    assert ended.error.startswith(f"job {name!r} of package example-jobs: ")
    assert words in ended.error


def test_the_rest_works_beside_them_and_the_suites_names_stay_its_own(installed: Path, config: Path) -> None:
    code = (
        "from mspipeline.jobs.registry import JOBS; print(*JOBS.working()); "
        "print(*map(str, JOBS.problems()), sep='\\n')"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    working, *problems = done.stdout.splitlines()
    assert set(working.split()) == {*JOBS.built_in, "count_voxels"}
    assert len(problems) == 6
    assert "job 'train' of package example-jobs: the suite has that name; choose another" in problems
    ended = job(installed, "supervise", "prepare", config)
    assert ended.code == UsageError.exit_code
    assert ended.stderr.splitlines()[-1] == (
        "error: only evaluate, predict, train, count_voxels run under the supervisor; received: prepare"
    )
