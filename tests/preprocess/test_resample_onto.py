"""The files of one case on one grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest

from mspipeline.datasets.layouts import find_cases
from mspipeline.errors import ConfigError, DatasetError
from mspipeline.preprocess.resample_onto import CaseReader, reader_onto
from mspipeline.recipes.catalogue import load_recipe
from mspipeline.recipes.slices2d.prepare import apply_files
from mspipeline.recipes.slices2d.schema import SliceSchema
from mspipeline.volume import load_grid, load_volume

Array = npt.NDArray[Any]
FINE = np.diag([1.0, 1.0, 1.0, 1.0])
COARSE = np.diag([-2.0, 2.0, 2.0, 1.0])  # left is first in the file
COARSE[:3, 3] = (20.5, 0.5, 0.5)


def ramp(shape: tuple[int, int, int], affine: Array) -> Array:
    """An image whose every voxel holds x + 100 y + 10,000 z of its centre, in mm, RAS."""
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    world = voxels @ affine[:3, :3].T + affine[:3, 3]
    return (world @ [1.0, 100.0, 10_000.0]).astype(np.float32)


def save(path: Path, data: Array, affine: Array) -> Path:
    nib.Nifti1Image(data, affine).to_filename(path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A FLAIR of 1 mm and a T1w of 2 mm, another orientation, of the same world."""
    return {
        "FLAIR": save(tmp_path / "flair.nii", ramp((20, 18, 16), FINE), FINE),
        "T1w": save(tmp_path / "t1.nii", ramp((12, 12, 12), COARSE), COARSE),
    }


def shift_file(path: Path, x: float) -> Path:
    """An ITK file that takes a fixed point to one x mm further left (LPS)."""
    path.write_text(
        "#Insight Transform File V1.0\nTransform: AffineTransform_double_3_3\n"
        f"Parameters: 1 0 0 0 1 0 0 0 1 {x} 0 0\nFixedParameters: 0 0 0\n"
    )
    return path


INSIDE = (slice(1, 19), slice(1, 18), slice(1, 16))


def test_headers_put_a_scan_where_its_world_coordinates_say(files: dict[str, Path]) -> None:
    moved = reader_onto("FLAIR", files, {}).volume("T1w", files["T1w"])
    assert moved.data.dtype == np.float32
    assert moved.grid.same_as(load_grid(files["FLAIR"]))
    # A linear image is interpolated exactly: it equals the FLAIR, which holds the same numbers at the same places.
    assert np.allclose(moved.data[INSIDE], ramp((20, 18, 16), FINE)[INSIDE], rtol=1e-5)


@pytest.mark.parametrize(("back", "change"), [(False, -2.0), (True, 2.0)])
def test_a_transform_takes_points_of_the_reference_to_the_scan(
    files: dict[str, Path], tmp_path: Path, back: bool, change: float
) -> None:
    steps = ((shift_file(tmp_path / "to.txt", 2.0), back),)
    moved = reader_onto("FLAIR", files, {"T1w": steps}).volume("T1w", files["T1w"])
    # 2 mm further left in LPS is x - 2 in RAS: each voxel holds the number of that place.
    inside = (slice(3, 17), *INSIDE[1:])
    assert np.allclose(moved.data[inside], ramp((20, 18, 16), FINE)[inside] + change, rtol=1e-5)


def test_two_transforms_are_followed_in_their_order(files: dict[str, Path], tmp_path: Path) -> None:
    turn = tmp_path / "turn.txt"
    turn.write_text(
        "#Insight Transform File V1.0\nTransform: AffineTransform_double_3_3\n"
        "Parameters: 0 -1 0 1 0 0 0 0 1 0 0 0\nFixedParameters: -10 -9 0\n"
    )
    steps = ((shift_file(tmp_path / "to.txt", 2.0), False), (turn, False))
    moved = reader_onto("FLAIR", files, {"T1w": steps}).volume("T1w", files["T1w"])
    # (10, 9, 8) goes 2 mm left, to x = 8, and a quarter turn about (10, 9) takes that to (10, 7).
    assert moved.data[10, 9, 8] == pytest.approx(10 + 100 * 7 + 10_000 * 8, rel=1e-5)


def test_a_mask_stays_a_mask_and_outside_is_nothing(files: dict[str, Path], tmp_path: Path) -> None:
    drawn = np.zeros((12, 12, 12), np.uint8)
    drawn[4, 5, 6] = 1  # 2 mm around (12.5, 10.5, 12.5)
    path = save(tmp_path / "mask.nii", drawn, COARSE)
    mask = reader_onto("FLAIR", files, {}).mask("brain", path)
    assert mask.data.dtype == bool
    assert sorted(map(tuple, np.argwhere(mask.data))) == [
        (x, y, z) for x in (12, 13) for y in (10, 11) for z in (12, 13)
    ]
    far = COARSE.copy()
    far[0, 3] = 500
    nowhere = save(tmp_path / "far.nii", drawn, far)
    with pytest.raises(DatasetError, match=r"far\.nii: shares 0% of its field of view with .*flair\.nii"):
        reader_onto("FLAIR", files, {}).volume("T1w", nowhere)
    with pytest.raises(DatasetError, match=r"100% of its voxels lie outside the field of view: 1 lesion of 0\.008 ml"):
        reader_onto("FLAIR", files, {}).mask("brain", nowhere)


def test_a_file_on_the_references_grid_is_taken_as_it_is(files: dict[str, Path], tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=(20, 18, 16)).astype(np.float32)
    path = save(tmp_path / "t2.nii", noise, FINE)
    steps = ((shift_file(tmp_path / "to.txt", 2.0), False),)  # it has been through this already
    reader = reader_onto("FLAIR", files, {"T2w": steps})
    assert np.array_equal(reader.volume("T2w", path).data, noise)
    assert reader.resampled_by("T2w", load_grid(path)) is None


def test_what_was_used_is_said(files: dict[str, Path], tmp_path: Path) -> None:
    steps = ((tmp_path / "a.txt", False), (tmp_path / "b.txt", True))
    grid = load_grid(files["T1w"])
    assert reader_onto("FLAIR", files, {}).resampled_by("T1w", grid) == "headers"
    assert reader_onto("FLAIR", files, {"T1w": steps}).resampled_by("T1w", grid) == "a.txt, inverse of b.txt"
    assert CaseReader().resampled_by("T1w", grid) is None


def test_the_reference_is_one_of_the_recipes_modalities() -> None:
    both = {"modalities": ["FLAIR", "T1w"]}
    assert load_recipe("slices2d", {**both, "resample_to": "T1w"}).document["resample_to"] == "T1w"
    with pytest.raises(ConfigError, match=r"resample_to: .*one of the recipe's modalities, FLAIR, T1w; received: 'T1'"):
        load_recipe("slices2d", {**both, "resample_to": "T1"})
    assert load_recipe("slices2d", both).hash != load_recipe("slices2d", {**both, "resample_to": "T1w"}).hash


def mutual_information(a: Array, b: Array) -> float:
    """Of two images' voxels, in nats, from a joint histogram of 64 x 64."""
    joint = np.histogram2d(a, b, 64)[0] / a.size
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / independent[seen])).sum())


@pytest.mark.real
def test_real_scans_lie_on_each_other_through_their_transforms(real_data: Path) -> None:
    case = find_cases(real_data / "ms-raw", ["FLAIR", "T1w", "T2w"], masks="optional").cases[0]
    through = reader_onto("FLAIR", case.scans, case.transform_chains("FLAIR"))
    against = {
        name: tuple((path, not back) for path, back in reversed(way))
        for name, way in case.transform_chains("FLAIR").items()
    }
    readers = {"through": through, "headers": reader_onto("FLAIR", case.scans, {})}
    readers["against"] = reader_onto("FLAIR", case.scans, against)
    flair = load_volume(case.scans["FLAIR"]).data
    assert case.brain_mask is not None
    brain = through.mask("brain", case.brain_mask).data
    # The FLAIR of air is below 50, of a brain nearly nowhere: a mask that is off takes in air and skull.
    darkness = {way: (flair[reader.mask("brain", case.brain_mask).data] < 50).mean() for way, reader in readers.items()}
    assert darkness["through"] < 0.5 * darkness["headers"] < 0.5 * darkness["against"]
    for modality in ("T1w", "T2w"):
        shared = {
            way: mutual_information(flair[brain], reader.volume(modality, case.scans[modality]).data[brain])
            for way, reader in readers.items()
        }
        assert shared["through"] > shared["headers"] > shared["against"]
        assert shared["through"] > 1.05 * shared["against"]


@pytest.mark.real
def test_a_recipe_prepares_real_scans_on_one_grid(real_data: Path) -> None:
    case = find_cases(real_data / "ms-raw", ["FLAIR", "T1w"], masks="optional").cases[0]
    recipe = SliceSchema(modalities=("FLAIR", "T1w"), resample_to="FLAIR")
    prepared = apply_files(recipe, case.scans, case.brain_mask, chains=case.transform_chains("FLAIR"))
    assert {scan.shape for scan in prepared.scans.values()} == {(320, 320, 48)}
    assert prepared.grid.same_as(load_grid(case.scans["FLAIR"]))
