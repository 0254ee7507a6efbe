"""The parts of submitit that have no public name and that `batch_script` uses all the same.

submitit writes a batch script only on its way to sbatch: no public call gives its text. `sweep --dry-run` shows it
before anything is submitted, and where there is no SLURM. The alternative is a second writer of such scripts, which
would show another script than the one that is submitted. So these names are used, and held here: a version of submitit
that changes them fails these tests and not a user's dry run.
"""

import inspect
import re
from pathlib import Path

import pytest
import submitit

from mspipeline.campaigns.site import Partition, Site
from mspipeline.campaigns.submission import CellSubmission
from mspipeline.slurm.submission.parameters import batch_script
from tests.campaigns.process_watch import wait_for
from tests.campaigns.submitting import submit_together
from tests.slurm.cluster import Cluster

SITE = Site(
    name="c", executor="slurm", partitions={"cpu": Partition(cpus=2, mem_gb=0.5, time_min=5)}, warn_s=30, max_parallel=2
)
OURS = Path(inspect.getfile(batch_script))


def test_the_private_names_of_submitit_that_are_used_are_these() -> None:
    used = set(re.findall(r"executor\.(_\w+)", OURS.read_text(encoding="utf-8")))
    assert used == {"_make_submission_file_text", "_submitit_command_str"}
    text = inspect.signature(submitit.SlurmExecutor._make_submission_file_text)
    assert list(text.parameters) == ["self", "command", "uid"]
    assert isinstance(submitit.SlurmExecutor._submitit_command_str, property)
    assert "map_count" in inspect.signature(submitit.slurm.slurm._make_sbatch_string).parameters


@pytest.mark.slurm
@pytest.mark.parametrize("count", [1, 3])
def test_the_script_that_a_dry_run_shows_is_the_one_that_sbatch_is_given(
    cluster: Cluster, tmp_path: Path, count: int
) -> None:
    orders = [CellSubmission(f"cell{number}", [["true"]], tmp_path / f"cell{number}") for number in range(count)]
    logs = tmp_path / "logs"
    handles = submit_together(SITE, "cpu", orders, logs, name="x")
    # submitit keeps the file that it gives to sbatch, and a link to it a job.
    (given,) = {path.read_text(encoding="utf-8") for path in logs.glob("*submission*.sh")}
    shown = batch_script(SITE, "cpu", count, logs, name="x")
    assert lines(shown) == lines(given)
    wait_for(lambda: all(handle.ended() for handle in handles), 60)


def lines(script: str) -> list[str]:
    return [line for line in script.splitlines() if line and not line.startswith("# ")]
