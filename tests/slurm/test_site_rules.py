"""What a site file means on SLURM."""

import subprocess

import pytest

from mspipeline.campaigns.schedulers import scheduler_named
from mspipeline.campaigns.site import Partition, Site
from mspipeline.campaigns.site_file import load_site
from mspipeline.slurm.site_rules import mpi_command, sbatch_of, setup_lines

CLUSTER = """
schema_version = 1
name = "cluster"
executor = "slurm"
[partitions.cores]
device = "cpu"
cpus = 16
[partitions.gpu_t4]
device = "gpu"
gres = "gpu:t4:1"
"""


def written(tmp_path, text):
    path = tmp_path / "site.toml"
    path.write_text(text)
    return str(path)


def contained(tmp_path, **values):
    return Site(name="x", executor="slurm", partitions={"cores": Partition()}, **values)


SRUN = ("srun", "--export=ALL", "--kill-on-bad-exit=1")


@pytest.mark.parametrize(
    ("values", "command"),
    [
        ({}, [*SRUN, "--mpi=of-the-environment", "--cpus-per-task=1", "-n", "4"]),
        ({"mpi_plugin": "pmi2"}, [*SRUN, "--mpi=pmi2", "--cpus-per-task=1", "-n", "4"]),
        ({"mpi": "mpirun"}, ["mpirun", "-n", "4"]),
    ],
)
def test_what_starts_four_ranks(tmp_path, values, command):
    assert mpi_command(contained(tmp_path, **values), 4) == command


def in_bash(lines, module):
    """What a shell says and ends with whose `module` is this function."""
    script = "\n".join([f"module() {{ {module}; }}", *lines, "echo goes on"])
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)


def test_modules_are_loaded_in_a_clean_set(tmp_path):
    site = contained(tmp_path, modules=("gcc/12.2", "cuda"))
    done = in_bash(setup_lines(site), 'export LOADED="${LOADED:-} $*"; [ "$1" != load ] || echo "$LOADED"')
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "goes on"
    assert " purge load gcc/12.2 load cuda" in done.stdout.splitlines()
    assert setup_lines(contained(tmp_path)) == []


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ('[ "$2" != cuda ] || { echo "Lmod has detected the following error:"; echo "  unknown: cuda"; return 1; }',
         "Lmod has detected the following error:   unknown: cuda"),
        ('[ "$2" != cuda ] || echo "ModuleCmd_Load.c(244):ERROR:105: Unable to locate a modulefile for cuda" >&2',
         "ModuleCmd_Load.c(244):ERROR:105: Unable to locate a modulefile for cuda"),
    ],
)  # fmt: skip
def test_a_module_that_does_not_load_ends_the_script_with_its_message(tmp_path, module, reason):
    done = in_bash(setup_lines(contained(tmp_path, modules=("gcc/12.2", "cuda"))), module)
    assert (done.returncode, done.stdout) == (78, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: the job ended before its work began: `module load cuda` failed on ")
    assert line.endswith(f" ({reason}); correct modules in the site file")


OPTIONS = '[sbatch]\nreservation = "x"\nmail_user = "ada@example.org"\n'


def test_options_of_sbatch_are_the_sites_and_the_partitions_own(tmp_path):
    text = CLUSTER + OPTIONS + '[partitions.gpu_t4.sbatch]\nconstraint = "t4"\nexclusive = true\nmail-user = false\n'
    site = load_site(written(tmp_path, text))
    assert sbatch_of(site, site.partitions["cores"]) == {"reservation": "x", "mail-user": "ada@example.org"}
    of_gpu = {"reservation": "x", "constraint": "t4", "exclusive": True}
    assert sbatch_of(site, site.partitions["gpu_t4"]) == of_gpu


def test_all_cells_are_handed_over_at_once_for_slurm_keeps_to_the_limit_itself(tmp_path):
    limited = load_site(written(tmp_path, CLUSTER.replace("[partitions.cores]", "max_parallel=4\n[partitions.cores]")))
    assert scheduler_named("slurm").limit(limited) == float("inf")
