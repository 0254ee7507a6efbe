"""What a sweep asks for: arrays, batch scripts and the plan, without a SLURM."""

import json
from pathlib import Path

import pytest

from mspipeline.campaigns.arrays import chains
from mspipeline.campaigns.campaign import Campaign
from mspipeline.campaigns.cells import cells
from mspipeline.campaigns.job_shape import After, JobShape
from mspipeline.campaigns.plan import plan
from mspipeline.campaigns.schedulers import scheduler_named
from mspipeline.campaigns.scripts import write_scripts
from mspipeline.campaigns.site import Partition, Site
from mspipeline.campaigns.sweep import EvaluateSettings, Matrix, Sweep
from mspipeline.config import PrepareJob
from mspipeline.recipes.catalogue import load_recipe
from mspipeline.slurm.on_node.element import _shares
from mspipeline.slurm.submission.parameters import batch_script, parameters

CPU = Partition(cpus=4, mem_gb=8, time_min=30)
GPU = Partition(device="gpu", cpus=8, mem_gb=32, time_min=120, gres="gpu:t4:2")
SITE = Site(name="c", executor="slurm", partitions={"cpu": CPU, "gpu_t4": GPU}, warn_s=60)


def planned(site=SITE, **changes):
    sweep = Sweep(name="x", **{"matrix": Matrix(model=("unet2d",), device=("cpu", "gpu"), seed=(0, 1)), **changes})
    made = cells(sweep, Path("/shards"), Path("/campaign"), load_recipe("slices2d"))
    return chains(made, site, scheduler_named(site.executor), separate_jobs=sweep.separate_jobs)


def campaign(tmp_path, site=SITE, size=(32, 32, 16), **changes):
    """A draft whose scans are still to be prepared."""
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"size": size}))
    prepare = PrepareJob(dataset=tmp_path, output=tmp_path / "shards", recipe=str(recipe))
    sweep = Sweep(name="x", **{"matrix": Matrix(model=("unet2d",), seed=(0, 1)), **changes})
    return Campaign.draft(tmp_path / "out", sweep, tmp_path / "shards", site, prepare=prepare, collect=True)


def test_cells_that_ask_for_the_same_are_one_array():
    made = planned(matrix=Matrix(model=("unet2d",), device=("cpu", "gpu"), processes=(1, 2), seed=(0, 1)))
    assert [
        [(array.partition_name, array.shape.tasks, len(array.cells), array.steps) for array in chain] for chain in made
    ] == [
        [("cpu", 1, 2, (0, 1))],
        [("cpu", 2, 2, (0, 1))],
        [("gpu_t4", 1, 2, (0, 1))],
        [("gpu_t4", 2, 2, (0, 1))],
    ]


def test_steps_of_their_own_are_two_arrays_of_the_same_cells_and_may_be_on_other_partitions():
    made = planned(separate_jobs=True, evaluate=EvaluateSettings(device="cpu"))
    assert [[(array.name, array.partition_name) for array in chain] for chain in made] == [
        [("train", "cpu"), ("evaluate", "cpu")],
        [("train", "gpu_t4"), ("evaluate", "cpu")],
    ]
    for train, evaluate in made:
        assert train.cells == evaluate.cells
        assert train.shape.propagates_exit_code


def test_a_thousand_cells_are_one_array_and_more_are_several():
    made = planned(matrix=Matrix(model=("unet2d",), seed=tuple(range(1000))))
    assert [array.jobs for (array,) in made] == [1000]
    made = planned(matrix=Matrix(model=("unet2d",), seed=tuple(range(1001))))
    assert [array.jobs for (array,) in made] == [1000, 1]
    packed = SITE.model_copy(update={"partitions": {"gpu_t4": GPU.model_copy(update={"pack": 3})}})
    made = planned(packed, matrix=Matrix(model=("unet2d",), seed=tuple(range(1001))))
    assert [(array.jobs, array.shape.pack) for (array,) in made] == [(334, 3)]


def test_cells_of_several_processes_and_those_of_this_machine_are_not_packed():
    packed = SITE.model_copy(update={"partitions": {"cpu": CPU.model_copy(update={"pack": 2})}})
    matrix = Matrix(model=("unet2d",), device=("cpu",), processes=(1, 2), seed=(0, 1))
    assert [array.shape.pack for (array,) in planned(packed, matrix=matrix)] == [2, 1]
    local = Site(name="l", executor="local", partitions=packed.partitions)
    made = planned(local, matrix=matrix, separate_jobs=True)
    assert [(array.shape.pack, array.steps) for (array,) in made] == [(1, (0, 1))] * 2


def test_a_job_of_packed_cells_asks_for_all_of_them_and_the_gpus_once():
    asked = parameters(SITE, "x", "gpu_t4", GPU, 5, JobShape(pack=3))
    assert (asked["cpus_per_task"], asked["mem"], asked["gres"]) == (24, "98304M", "gpu:t4:2")
    limited = SITE.model_copy(update={"max_parallel": 7})
    assert parameters(limited, "x", "cpu", CPU, 5, JobShape(pack=3))["array_parallelism"] == 2


def lines_of(shape, device="cpu", count=1):
    text = batch_script(SITE, device, count, Path("/logs"), name="x", shape=shape)
    return [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")], text


def test_processes_are_tasks_of_a_script_that_itself_runs_once():
    asked, text = lines_of(JobShape(tasks=4))
    assert {"ntasks=4", "nodes=1-4", "cpus-per-task=4", "mem-per-cpu=2048M", "signal=B:USR2@60"} <= set(asked)
    assert "\nexec " in text
    assert "srun" not in text


@pytest.mark.parametrize(("tasks", "nodes", "each"), [(2, 1, 2), (3, 2, 2), (4, 2, 2)])
def test_each_process_has_a_gpu_of_its_own(tasks, nodes, each):
    asked, _ = lines_of(JobShape(tasks=tasks), "gpu")
    assert {f"ntasks={tasks}", f"nodes={nodes}", f"ntasks-per-node={each}", "gres=gpu:t4:2"} <= set(asked)


def test_a_limit_that_the_site_leaves_open_is_not_made_up():
    site = Site(name="c", executor="slurm", partitions={"cpu": Partition(cpus=4)})
    assert "--time" not in batch_script(site, "cpu", 3, Path("/logs"), name="x")


def test_a_job_that_waits_for_one_that_failed_is_taken_out_of_the_queue():
    asked, _ = lines_of(JobShape(after=After("same_succeeded", ("12_0",))), count=3)
    assert {"dependency=aftercorr:12", "kill-on-invalid-dep=yes", "array=0-2%3"} <= set(asked)


def test_one_copy_of_evaluation_runs_and_as_many_of_training_as_were_asked_for():
    (array,) = planned(matrix=Matrix(model=("unet2d",), device=("cpu",), processes=(2,)))[0]
    train, evaluate = array.steps_of(array.cells[0])
    words = scheduler_named("slurm").launcher(train.processes, CPU)
    assert (words[0], words[-1]) == ("srun", "--ntasks=2")
    assert {"--cpus-per-task=4", "--kill-on-bad-exit=1", "--export=ALL", "--mpi=none"} <= set(words)
    assert scheduler_named("slurm").launcher(evaluate.processes, CPU) == []


def test_the_plan_counts_jobs_and_what_they_would_take_if_all_ran_into_their_limit(tmp_path):
    found = plan(campaign(tmp_path, matrix=Matrix(model=("unet2d",), device=("cpu", "gpu"), seed=(0, 1, 2))))
    assert [(row.steps, row.partition, row.jobs, row.cpus, row.core_hours) for row in found.jobs] == [
        ("prepare", "cpu", 1, 1, 0.5),
        ("train + evaluate", "cpu", 3, 4, 3 * 4 * 0.5),
        ("train + evaluate", "gpu_t4", 3, 8, 3 * 8 * 2.0),
        ("collect", "cpu", 1, 1, 0.5),
    ]
    assert (found.cells, found.core_hours, found.problems) == (6, 55.0, ())
    assert not (tmp_path / "out").exists()


def test_core_hours_are_unknown_where_the_site_has_no_time_limit(tmp_path):
    site = Site(name="c", executor="slurm", partitions={"cpu": Partition(cpus=4)})
    assert plan(campaign(tmp_path, site)).core_hours is None
    local = Site(name="l", executor="local")
    assert [(row.steps, row.partition, row.core_hours) for row in plan(campaign(tmp_path, local)).jobs] == [
        ("train + evaluate", "", None)
    ]


def test_the_disk_is_that_of_two_checkpoints_a_cell_and_grows_with_the_network(tmp_path):
    """A U-Net of base width 2: 2 weights files and two moments of what is trained, four bytes each."""
    from mspipeline.models.catalogue import build
    from mspipeline.network.cost import cost

    overrides = {"models.unet2d.base_width": (2, 4)}
    found = plan(campaign(tmp_path, matrix=Matrix(model=("unet2d",), seed=(0, 1, 2), overrides=overrides)))
    costs = [cost(build("unet2d", (32, 32, 1), {"base_width": width})) for width in (2, 4)]
    assert found.disk_bytes == 3 * 4 * sum(2 * each.total + 2 * each.trainable for each in costs)
    assert found.fits


def test_a_network_that_cannot_take_the_images_is_told_before_anything_runs(tmp_path):
    found = plan(campaign(tmp_path, size=(24, 24, 16)))
    assert len(found.problems) == 1
    assert "24x24 is not a multiple of 16" in found.problems[0]


def test_a_dry_run_says_what_each_script_waits_for_and_runs(tmp_path):
    scripts = write_scripts(campaign(tmp_path, separate_jobs=True))
    assert [path.name for path in scripts] == [
        "01-prepare.sh",
        "02-train-gpu_t4.sh",
        "03-evaluate-gpu_t4.sh",
        "04-collect.sh",
    ]
    text = scripts[2].read_text()
    assert text.startswith("#!/bin/bash\n# each element after the same one of 02-train-")
    assert "unet2d-tensorflow-s1: " in text
    assert "supervise evaluate" in text
    assert "supervise train" not in text


def test_cores_are_dealt_to_packed_cells():
    assert _shares([0, 1, 2, 3, 6], 2) == [[0, 1, 2], [3, 6]]
    assert _shares([0], 2) == [[0], [0]]
