from pathlib import Path

import pytest

from mspipeline.campaigns.cells import cells
from mspipeline.campaigns.sweep import Matrix, Sweep, Zip, load_sweep
from mspipeline.errors import ConfigError
from mspipeline.recipes.catalogue import load_recipe

SLICES = load_recipe("slices2d")

SUITES = Path(__file__).parents[2] / "benchmarks" / "suites"
TEXT = """
schema_version = 1
name = "small"
threads = 2
[matrix]
model = ["unet2d"]
backend = ["tensorflow", "torch"]
seed = [0, 1]
[models.unet2d]
base_width = 8
[training]
epochs = 4
batch_size = 2
[evaluate]
subsets = ["test"]
"""


def written(tmp_path, text):
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    return path


def test_the_matrix_is_crossed_in_order_and_each_cell_has_its_two_jobs(tmp_path):
    found = cells(load_sweep(written(tmp_path, TEXT)), Path("/shards"), Path("/campaign"), SLICES)
    assert [cell.id for cell in found] == [
        "unet2d-tensorflow-s0",
        "unet2d-tensorflow-s1",
        "unet2d-torch-s0",
        "unet2d-torch-s1",
    ]
    train, evaluate = found[3].train, found[3].evaluate
    assert (train.model.name, train.model.arguments) == ("unet2d", {"base_width": 8})
    assert (train.backend, train.device, train.seed, train.threads) == ("torch", "auto", 1, 2)
    assert (train.campaign, train.cell) == ("small", "unet2d-torch-s1")
    assert (train.training.epochs, train.shards) == (4, Path("/shards"))
    assert train.run_folder == evaluate.run_folder == Path("/campaign/cells/unet2d-torch-s1")
    assert (evaluate.subsets, evaluate.checkpoint, evaluate.batch_size, evaluate.threads) == (("test",), "best", 2, 2)


def test_the_device_is_in_the_id_where_it_tells_cells_apart():
    sweep = Sweep(name="x", matrix=Matrix(model=("unet2d",), device=("cpu", "gpu")))
    assert [cell.id for cell in cells(sweep, Path(), Path(), SLICES)] == [
        "unet2d-tensorflow-cpu-s0",
        "unet2d-tensorflow-gpu-s0",
    ]


def test_a_cell_is_evaluated_on_the_device_of_its_training_or_on_the_one_named(tmp_path: Path) -> None:
    text = TEXT.replace("seed = [0, 1]", 'device = ["cpu", "gpu"]')
    found = cells(load_sweep(written(tmp_path, text)), Path("/shards"), Path("/campaign"), SLICES)
    assert [cell.evaluate.device for cell in found] == ["cpu", "gpu"] * 2
    text = text.replace("[evaluate]", '[evaluate]\ndevice = "cpu"')
    text = text.replace("threads = 2", "threads = 2\nseparate_jobs = true")
    found = cells(load_sweep(written(tmp_path, text)), Path("/shards"), Path("/campaign"), SLICES)
    assert [cell.evaluate.device for cell in found] == ["cpu"] * 4


def test_excludes_leave_out_what_matches_every_axis_they_name():
    matrix = Matrix(model=("unet2d",), backend=("tensorflow", "torch"), seed=(0, 1))
    sweep = Sweep(name="x", matrix=matrix, exclude=({"backend": "torch", "seed": 1},))
    assert [cell.id[7:] for cell in cells(sweep, Path(), Path(), SLICES)] == [
        "tensorflow-s0",
        "tensorflow-s1",
        "torch-s0",
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("seed =", "sead ="), "unknown key 'matrix.sead'; did you mean 'seed'?"),
        (("epochs =", "epoch ="), "unknown key 'training.epoch'; did you mean 'epochs'?"),
        (("[evaluate]", "[evalute]"), "unknown key 'evalute'; did you mean 'evaluate'?"),
        (('["unet2d"]', '["unet2"]'), "unknown model 'unet2'; did you mean 'unet2d'?"),
        (("base_width", "base_with"), "unknown argument 'base_with'; did you mean 'base_width'?"),
        (("[models.unet2d]", "[models.unet3d]"), "[models.unet3d] is not in matrix.model; did you mean 'unet2d'?"),
        (("[0, 1]", "[0, 0]"), "matrix.seed has 0 twice"),
        (("[0, 1]", "[-1]"), "matrix.seed.0: input should be greater than or equal to 0"),
        (("[0, 1]", "[]"), "the sweep has no cells: matrix.seed is empty"),
        (
            ("threads = 2", "threads = 2\nexclude = [{model = 'unet2d'}]"),
            "the sweep has no cells: `exclude` leaves none",
        ),
        (("threads = 2", "threads = 2\nexclude = [{}]"), "exclude number 1 names no axis"),
        (("threads = 2", "threads = 2\nexclude = [{backend = 'troch'}]"), "did you mean 'torch'?"),
        (('"small"', '"../small"'), "name: string should match pattern"),
        (('"torch"', '"../torch"'), "matrix.backend.1: string should match pattern"),
        (
            ("schema_version = 1", "schema_version = 2"),
            "schema version 2, expected at most 1; it is of a newer version",
        ),
    ],
)
def test_a_sweep_file_that_does_not_fit_is_one_line(tmp_path, change, said):
    with pytest.raises(ConfigError) as refusal:
        load_sweep(written(tmp_path, TEXT.replace(*change)))
    assert said in str(refusal.value)
    assert "sweep.toml" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_demo_is_a_narrow_unet_with_two_seeds_on_each_of_three_backends():
    found = cells(load_sweep(SUITES / "demo.toml"), Path("/shards"), Path("/campaign"), SLICES)
    assert [cell.id for cell in found] == [
        f"unet2d-{backend}-s{seed}" for backend in ("tensorflow", "jax", "pyeddl") for seed in (0, 1)
    ]
    assert {cell.train.model.arguments["base_width"] for cell in found} == {8}


def test_the_2021_setup_is_that_of_the_report():
    found = cells(load_sweep(SUITES / "report2021.toml"), Path("/shards"), Path("/campaign"), SLICES)
    assert [cell.train.seed for cell in found] == [0, 1, 2]
    train = found[0].train
    assert (train.training.epochs, train.training.batch_size, train.training.loss) == (128, 8, "bce")
    assert train.training.learning_rate == 1e-4
    assert train.model.arguments == {"base_width": 64}


def ids(sweep):
    return [cell.id for cell in cells(sweep, Path("/shards"), Path("/campaign"), SLICES)]


def test_overrides_are_axes_of_the_training_and_of_the_networks_and_stand_in_the_id():
    overrides = {"training.batch_size": (4, 8), "models.unet2d.base_width": (8, 16), "threads": (2,)}
    sweep = Sweep(name="x", matrix=Matrix(model=("unet2d",), overrides=overrides))
    found = cells(sweep, Path(), Path(), SLICES)
    assert [cell.id for cell in found] == [
        "unet2d-tensorflow-batch_size4-base_width8-s0",
        "unet2d-tensorflow-batch_size4-base_width16-s0",
        "unet2d-tensorflow-batch_size8-base_width8-s0",
        "unet2d-tensorflow-batch_size8-base_width16-s0",
    ]
    assert (found[1].train.training.batch_size, found[1].train.model.arguments) == (4, {"base_width": 16})
    assert (found[1].evaluate.batch_size, found[1].train.threads, found[1].evaluate.threads) == (4, 2, 2)
    assert found[1].train.training.epochs == sweep.training.epochs


def test_an_argument_of_one_network_is_no_axis_of_another():
    overrides = {"models.unet2d.base_width": (8, 16), "models.double_unet.base_width": (8, 16)}
    matrix = Matrix(model=("unet2d", "double_unet", "unet2d_report_tf"), overrides=overrides)
    found = [cell_id.removesuffix("-s0") for cell_id in ids(Sweep(name="x", matrix=matrix))]
    assert found == [
        "unet2d-tensorflow-models.unet2d.base_width8",
        "unet2d-tensorflow-models.unet2d.base_width16",
        "double_unet-tensorflow-models.double_unet.base_width8",
        "double_unet-tensorflow-models.double_unet.base_width16",
        "unet2d_report_tf-tensorflow",
    ]


def test_zipped_axes_vary_together_and_are_crossed_with_the_others():
    matrix = Matrix(model=("unet2d",), processes=(1, 2), seed=(0, 1), overrides={"training.batch_size": (8, 16)})
    found = ids(Sweep(name="x", matrix=matrix, zip=(Zip(axes=("processes", "training.batch_size")),)))
    assert [cell_id.removeprefix("unet2d-tensorflow-") for cell_id in found] == [
        "batch_size8-p1-s0",
        "batch_size8-p1-s1",
        "batch_size16-p2-s0",
        "batch_size16-p2-s1",
    ]


def test_an_exclude_may_name_an_override(tmp_path):
    text = TEXT + "[matrix.overrides]\ntraining.epochs = [1, 2]\n"
    text = text.replace("threads = 2", 'threads = 2\nexclude = [{"training.epochs" = 2, backend = "torch"}]')
    found = [cell.id for cell in cells(load_sweep(written(tmp_path, text)), Path(), Path(), SLICES)]
    assert len(found) == 6
    assert "unet2d-torch-epochs1-s0" in found
    assert "unet2d-torch-epochs2-s0" not in found


def test_a_cell_of_one_process_is_the_same_job_as_before_there_were_several():
    (cell,) = cells(Sweep(name="x", matrix=Matrix(model=("unet2d",))), Path(), Path(), SLICES)
    assert [(step.name, step.processes, step.device) for step in cell.steps] == [
        ("train", 1, "auto"),
        ("evaluate", 1, "auto"),
    ]
    assert cell.steps[0].config is cell.train


def test_the_stages_of_a_cascade_are_steps_where_steps_are_jobs_of_their_own():
    matrix = Matrix(model=("cascade3d",))
    patches = load_recipe("patches3d")
    (cell,) = cells(Sweep(name="x", matrix=matrix, separate_jobs=True), Path(), Path(), patches)
    assert [(step.name, step.job, getattr(step.config, "stage", None)) for step in cell.steps] == [
        ("train-stage1", "train", 1),
        ("train-stage2", "train", 2),
        ("evaluate", "evaluate", None),
    ]
    (cell,) = cells(Sweep(name="x", matrix=matrix), Path(), Path(), patches)
    assert [step.name for step in cell.steps] == ["train", "evaluate"]
    assert cell.train.stage is None


OVERRIDDEN = TEXT + '[matrix.overrides]\n"training.batch_size" = [4, 8]\n"models.unet2d.base_width" = [8, 16, 32]\n'


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("training.batch_size", "training.batchsize"), "'training.batchsize'; did you mean 'training.batch_size'?"),
        (("unet2d.base_width", "unet2d.base_with"), "did you mean 'models.unet2d.base_width'?"),
        (("[4, 8]", "[4, 0]"), "matrix.overrides: training.batch_size: input should be greater than 0; received: 0"),
        (("[8, 16, 32]", '[8, "wide"]'), "base_width must be of type int; received: 'wide'"),
        (("[4, 8]", "[4, 4]"), "matrix.training.batch_size has 4 twice"),
        (
            ("[evaluate]", '[[zip]]\naxes = ["training.batch_size", "models.unet2d.base_width"]\n[evaluate]'),
            "zip: training.batch_size has 2 values and models.unet2d.base_width has 3",
        ),
        (("[evaluate]", '[[zip]]\naxes = ["sed", "backend"]\n[evaluate]'), "'sed' is no axis of the matrix; did you"),
        (("[evaluate]", '[[zip]]\naxes = ["seed"]\n[evaluate]'), "zip.0.axes: tuple should have at least 2 items"),
        (("[evaluate]", '[[zip]]\naxes = ["seed", "seed"]\n[evaluate]'), "zip: seed is named twice"),
        (("[evaluate]", "[[exclude]]\nsede = 1\n[evaluate]"), "exclude: 'sede' is no axis of the matrix; did you mean"),
        (("[evaluate]", '[evaluate]\ndevice = "cpu"'), "evaluate.device needs separate_jobs = true"),
    ],
)
def test_axes_that_do_not_fit_are_one_line(tmp_path, change, said):
    with pytest.raises(ConfigError) as refusal:
        cells(load_sweep(written(tmp_path, OVERRIDDEN.replace(*change))), Path(), Path(), SLICES)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_settings_of_the_recipe_are_axes_and_where_there_are_none_nothing_says_so() -> None:
    matrix = Matrix(model=("unet2d",), overrides={"training.recipe.mirror": (True, False)})
    found = cells(Sweep(name="x", matrix=matrix), Path(), Path(), SLICES)
    assert [cell.id for cell in found] == ["unet2d-tensorflow-mirrortrue-s0", "unet2d-tensorflow-mirrorfalse-s0"]
    assert [cell.train.training.recipe for cell in found] == [{"mirror": True}, {"mirror": False}]
    (plain,) = cells(Sweep(name="x", matrix=Matrix(model=("unet2d",))), Path(), Path(), SLICES)
    assert "recipe" not in plain.train.training.model_dump()  # its hash is as it was before there were such settings
