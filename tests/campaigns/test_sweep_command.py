"""`mspipeline sweep`, as its user runs it, up to where cells begin."""

import json
import subprocess
import sys

import pytest

SWEEP = """
name = "small"
threads = 1
[matrix]
model = ["unet2d"]
seed = [0, 1, 2]
[models.unet2d]
base_width = 2
"""
SITE = """
name = "cluster"
executor = "slurm"
[partitions.cores]
cpus = 2
mem_gb = 4
time_min = 60
"""


@pytest.fixture
def run(tmp_path, small_dataset):
    """Run `mspipeline sweep` on the phantom's scans, with a site file of a cluster that is not there."""
    (tmp_path / "small.toml").write_text(SWEEP)
    (tmp_path / "site.toml").write_text(SITE)

    def call(*words, site="site.toml", size="[32,32,16]"):
        start = [sys.executable, "-P", "-c", "import sys; from mspipeline.cli import main; sys.exit(main())", "sweep"]
        given = ["small.toml", "--data", str(small_dataset), "--set", f"size={size}", "--site", site, "-o", "out"]
        return subprocess.run([*start, *given, *words], cwd=tmp_path, capture_output=True, text=True, check=False)

    return call


def test_a_dry_run_shows_the_plan_and_writes_the_scripts_and_no_campaign(run, tmp_path):
    done = run("--dry-run")
    assert done.returncode == 0, done.stderr
    assert "small: 3 cells on site cluster, at most 8.0 core-hours an attempt" in done.stdout
    assert sorted(path.name for path in (tmp_path / "out" / "dry-run").iterdir()) == [
        "01-prepare.sh",
        "02-cells-cores.sh",
        "03-collect.sh",
    ]
    assert not (tmp_path / "out" / "campaign.json").exists()


def test_the_plan_as_json_says_which_cells_will_fail(run):
    plan = json.loads(run("--dry-run", "--json", size="[24,24,16]").stdout)
    assert (plan["cells"], plan["core_hours"], len(plan["scripts"])) == (3, 8.0, 3)
    assert "24x24 is not a multiple of 16" in plan["problems"][0]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--data", "nowhere"), 65, "nowhere: no such folder of scans"),
        (("--set", "sise=[8,8,8]"), 78, "unknown key 'sise'; did you mean 'size'?"),
        (("--recipe", "slice2d"), 78, "slice2d: no such recipe"),
    ],
)
def test_scans_and_recipe_are_checked_before_anything_is_written(run, tmp_path, words, code, said):
    done = run(*words)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert not (tmp_path / "out").exists()


def test_the_recipe_of_another_sweep_is_not_overwritten(run, tmp_path):
    run("--dry-run")
    done = run("--dry-run", size="[48,48,16]")
    assert done.returncode == 78
    assert "another recipe (it differs in size)" in done.stderr
    assert json.loads((tmp_path / "out" / "recipe.json").read_text())["size"] == [32, 32, 16]


def test_nobody_can_leave_a_machine_without_a_scheduler(run, tmp_path):
    done = run("--detach", "--no-collect", "--uncertified", site="local")
    assert done.returncode == 2
    assert "leave out --detach" in done.stderr
    assert not (tmp_path / "out").exists()
