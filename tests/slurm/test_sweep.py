from pathlib import Path

import pytest

from mspipeline.errors import ConfigError
from slurm.sweep import Exclude, Matrix, Sweep, cells, load_sweep

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
    found = cells(load_sweep(written(tmp_path, TEXT)), Path("/shards"), Path("/campaign"))
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
    assert [cell.id for cell in cells(sweep, Path(), Path())] == [
        "unet2d-tensorflow-cpu-s0",
        "unet2d-tensorflow-gpu-s0",
    ]


def test_excludes_leave_out_what_matches_every_axis_they_name():
    matrix = Matrix(model=("unet2d",), backend=("tensorflow", "torch"), seed=(0, 1))
    sweep = Sweep(name="x", matrix=matrix, exclude=(Exclude(backend="torch", seed=1),))
    assert [cell.id[7:] for cell in cells(sweep, Path(), Path())] == ["tensorflow-s0", "tensorflow-s1", "torch-s0"]


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
        (("schema_version = 1", "schema_version = 2"), "schema_version: input should be 1"),
    ],
)
def test_a_sweep_file_that_does_not_fit_is_one_line(tmp_path, change, said):
    with pytest.raises(ConfigError) as refusal:
        load_sweep(written(tmp_path, TEXT.replace(*change)))
    assert said in str(refusal.value)
    assert "sweep.toml" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_demo_is_a_narrow_unet_with_two_seeds_on_each_of_three_backends():
    found = cells(load_sweep(SUITES / "demo.toml"), Path("/shards"), Path("/campaign"))
    assert [cell.id for cell in found] == [
        f"unet2d-{backend}-s{seed}" for backend in ("tensorflow", "jax", "pyeddl") for seed in (0, 1)
    ]
    assert {cell.train.model.arguments["base_width"] for cell in found} == {8}


def test_the_2021_setup_is_that_of_the_report():
    found = cells(load_sweep(SUITES / "report2021.toml"), Path("/shards"), Path("/campaign"))
    assert [cell.train.seed for cell in found] == [0, 1, 2]
    train = found[0].train
    assert (train.training.epochs, train.training.batch_size, train.training.loss) == (128, 8, "bce")
    assert train.training.learning_rate == 1e-4
    assert train.model.arguments == {"base_width": 64}
