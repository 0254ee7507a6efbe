"""Work shared among ranks."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from mspipeline.errors import DataError, SuiteError
from mspipeline.parallel.launchers import Launch, launch_of
from mspipeline.parallel.ranks import Done, one_process
from tests.mpi_launch import mpirun, require_mpi


@pytest.mark.parametrize(
    ("environ", "launch"),
    [
        ({}, None),
        ({"PMI_RANK": "2", "PMI_SIZE": "4"}, Launch(2, 4, "PMI_RANK")),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "8"}, Launch(0, 8, "OMPI_COMM_WORLD_RANK")),
        ({"PMIX_RANK": "1", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, Launch(1, 2, "PMIX_RANK")),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, Launch(1, 2, "SLURM_PROCID")),
        # A batch script is no step: `sbatch -n 4` starts it once.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, None),
        # mpirun in a step of srun's: the inner launcher counts.
        (
            {"PMI_RANK": "3", "PMI_SIZE": "6", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"},
            Launch(3, 6, "PMI_RANK"),
        ),
    ],
)
def test_the_launcher_is_told_by_its_variables(environ: dict[str, str], launch: Launch | None) -> None:
    assert launch_of(environ) == launch


def fail_on_three(item: int, threads: int) -> int:
    if item == 3:
        raise DataError("sub-03: a bad file")
    if item == 4:
        raise ValueError("two\nlines")
    return item * item


def test_one_process_works_through_the_list_in_its_order() -> None:
    told: list[Done[int]] = []
    values = one_process().run(fail_on_three, [5, 1, 2], costs=[1, 9, 5], names=["a", "b", "c"], done=told.append)
    assert values == [25, 1, 4]
    assert [(one.place, one.value, one.rank) for one in told] == [(0, 25, 0), (1, 1, 0), (2, 4, 0)]
    with pytest.raises(DataError, match="sub-03: a bad file"):
        one_process().run(fail_on_three, [1, 3], costs=[1, 1], names=["a", "b"])
    with pytest.raises(SuiteError, match=r"^sub-04: ValueError: two lines; run with --debug"):
        one_process().run(fail_on_three, [4], costs=[1], names=["sub-04"])


# Items are seconds to sleep: with one of 1 s and 30 of 50 ms on 3 ranks, whoever has the first does nothing else.
PROGRAM = """
import json, os, sys, time
from collections import Counter
from mspipeline.errors import DataError, SuiteError
from mspipeline.parallel.ranks import open_team

def nap(item, threads):
    if item < 0:
        raise (DataError if item > -2 else ValueError)("bad on rank " + os.environ["PMI_RANK"])
    time.sleep(item)
    return item

def main(items):
    with open_team(os.environ) as team:
        if team is None:
            return
        ranks = Counter()
        try:
            names = [f"sub-{place:02d}" for place in range(len(items))]
            values = team.run(nap, items, costs=items, names=names, done=lambda one: ranks.update([one.rank]))
            team.run(nap, [0.0], costs=[1.0], names=["again"])
            threads = [member.threads for member in team.members]
            print(json.dumps({"values": values, "ranks": ranks, "members": threads}))
        except SuiteError as error:
            print(json.dumps({"class": type(error).__name__, "error": str(error), "notes": error.__notes__}))

if __name__ == "__main__":
    import nap as module  # by its name: tasks travel with it
    module.main(json.loads(sys.argv[1]))
"""


def on_ranks(folder: Path, ranks: int, items: list[float]) -> dict[str, object]:
    require_mpi()
    (folder / "nap.py").write_text(PROGRAM)
    path = os.pathsep.join([str(folder), os.getcwd()])
    ended = mpirun(ranks, sys.executable, folder / "nap.py", json.dumps(items), PYTHONPATH=path)
    assert ended.code == 0, ended.stderr
    document: dict[str, object] = json.loads(ended.stdout)
    return document


@pytest.mark.mpi
def test_a_long_task_leaves_the_others_to_the_other_ranks(tmp_path: Path) -> None:
    items = [0.05] * 15 + [1.0] + [0.05] * 15
    said = on_ranks(tmp_path, 3, items)
    assert said["values"] == items
    done = said["ranks"]
    assert isinstance(done, dict)
    assert sorted(done) == ["0", "1", "2"]
    assert sum(done.values()) == 31
    assert min(done.values()) <= 4  # the one with the long task; a slow machine may leave it a few
    cores = len(os.sched_getaffinity(0))
    assert said["members"] == [max(1, int(cores / 3))] * 3


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("item", "kind", "words"),
    [(-1.0, "DataError", "bad on rank 1"), (-3.0, "SuiteError", "sub-00: ValueError: bad on rank 1")],
)
def test_an_error_on_another_rank_is_raised_on_rank_0_with_its_traceback(
    tmp_path: Path, item: float, kind: str, words: str
) -> None:
    # Rank 0 sleeps in the most expensive task while another rank meets the bad one.
    said = on_ranks(tmp_path, 2, [item, 1.0, 0.5])
    assert said["class"] == kind
    assert str(said["error"]).startswith(words)
    notes = said["notes"]
    assert isinstance(notes, list)
    assert "Traceback" in notes[0]
