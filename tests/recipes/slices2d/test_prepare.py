"""The recipe and what it makes of a case."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from mspipeline.errors import ConfigError, DatasetError, VolumeError
from mspipeline.recipes.catalogue import load_recipe
from mspipeline.recipes.slices2d.prepare import apply, apply_files
from mspipeline.recipes.slices2d.recipe import Slices2d
from mspipeline.recipes.slices2d.schema import SliceSchema
from tests.preprocess.brain_block import RAS, SHAPE, Array, recipe, scan, volume


def test_the_built_in_file_lists_every_default() -> None:
    assert load_recipe("slices2d") == Slices2d(SliceSchema())
    text = (Path(__file__).parents[3] / "mspipeline/recipes/slices2d/slices2d.toml").read_text()
    for key in SliceSchema.model_fields:
        assert f"{key} =" in text


def test_overrides_replace_keys_before_anything_is_checked() -> None:
    changed = load_recipe("slices2d", {"size": [64, 64, 32], "modalities": ["T1w", "FLAIR"]})
    assert (changed.document["size"], changed.channels, changed.image_shape) == (
        [64, 64, 32],
        ("T1w", "FLAIR"),
        (64, 64, 2),
    )
    assert changed.hash != load_recipe("slices2d").hash


def test_a_recipe_of_ones_own_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("size = [8, 9, 10]\naxis = 0\n")
    assert load_recipe(path).image_shape == (9, 10, 1)


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("slice2d", {}, "slice2d: no such recipe.*did you mean 'slices2d'"),
        ("slices2d", {"sise": [1, 1, 1]}, "unknown key 'sise'; did you mean 'size'"),
        ("slices2d", {"size": [0, 1, 1]}, r"size\.0: .*greater than 0"),
        ("slices2d", {"axis": 3}, "axis: "),
        ("slices2d", {"modalities": []}, "at least one modality"),
        ("slices2d", {"modalities": ["T1w", "T1w"]}, "each named once"),
    ],
)
def test_a_wrong_recipe_is_answered_with_the_valid_ones(name: str, overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_recipe(name, overrides)


def test_brain_voxels_have_mean_zero_and_deviation_one_and_the_rest_is_zero() -> None:
    data = scan()
    prepared = apply(recipe(), {"FLAIR": volume(data)})
    values = prepared.scans["FLAIR"]
    assert prepared.brain_source == "nonzero"
    assert values[data != 0].mean() == pytest.approx(0, abs=1e-6)
    assert values[data != 0].std() == pytest.approx(1, abs=1e-6)
    assert not values[data == 0].any()
    assert (data[data != 0] < 0).any()
    assert prepared.intensity["FLAIR"].mean == pytest.approx(float(data[data != 0].astype(float).mean()))


def test_a_brain_mask_is_taken_over_the_nonzero_voxels_unless_the_recipe_says_otherwise() -> None:
    mask = np.zeros(SHAPE, bool)
    mask[1:3, 2:6, 1:4] = True
    data = scan()
    with_mask = apply(recipe(), {"FLAIR": volume(data)}, volume(mask))
    without = apply(recipe(brain="nonzero"), {"FLAIR": volume(data)}, volume(mask))
    assert (with_mask.brain_source, without.brain_source) == ("mask", "nonzero")
    assert with_mask.intensity["FLAIR"].mean == pytest.approx(float(data[mask].astype(float).mean()))
    assert not with_mask.scans["FLAIR"][~mask].any()


def test_a_recipe_that_wants_a_brain_mask_does_not_do_without() -> None:
    with pytest.raises(DatasetError, match=r"no brain mask.*set brain = 'auto'"):
        apply(recipe(brain="mask"), {"FLAIR": volume(scan())})


def test_slices_without_brain_are_dropped_where_asked_for_and_their_places_kept() -> None:
    everything = apply(recipe(size=(6, 7, 10)), {"FLAIR": volume(scan())})
    dropped = apply(recipe(size=(6, 7, 10), drop_slices_without_brain=True), {"FLAIR": volume(scan())})
    with_values = np.flatnonzero(everything.images.any(axis=(1, 2, 3)))
    assert dropped.slice_index.tolist() == with_values.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert np.array_equal(dropped.images, everything.images[with_values])


def test_scans_on_different_grids_are_refused_with_both_files_and_grids() -> None:
    shifted = RAS.copy()
    shifted[0, 3] = 1.0
    files = {"FLAIR": Path("a_FLAIR.nii"), "T1w": Path("a_T1w.nii"), "lesions": Path("a_mask.nii")}
    both = {"FLAIR": volume(scan()), "T1w": volume(scan(), shifted)}
    with pytest.raises(DatasetError, match=r"a_FLAIR\.nii \(6x7x5 .*a_T1w\.nii \(6x7x5 .*different grids"):
        apply(recipe(modalities=("FLAIR", "T1w")), both, files=files)
    small = volume(np.zeros((3, 3, 3), bool))
    with pytest.raises(DatasetError, match=r"a_mask\.nii \(3x3x3 voxels of 1x1x1 mm, RAS\) are on different grids"):
        apply(recipe(), {"FLAIR": volume(scan())}, mask=small, files=files)


def test_a_missing_modality_is_named() -> None:
    with pytest.raises(DatasetError, match="no T2w among FLAIR"):
        apply(recipe(modalities=("FLAIR", "T2w")), {"FLAIR": volume(scan())})


def in_orientation(data: Array, codes: str) -> nib.Nifti1Image:
    """One anatomy as a file that stores its axes in the order and direction of `codes`."""
    image = nib.Nifti1Image(data, RAS)
    there = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(codes))
    )
    return image.as_reoriented(there)


@pytest.mark.parametrize("codes", ["LAS", "PSR", "ILA"])
def test_one_anatomy_gives_the_same_slices_whatever_its_orientation(tmp_path: Path, codes: str) -> None:
    lesions = np.zeros(SHAPE, np.uint8)
    lesions[3, 4, 2] = 1
    prepared = []
    for orientation in ("RAS", codes):
        for name, data in (("scan", scan()), ("mask", lesions)):
            in_orientation(data, orientation).to_filename(tmp_path / f"{orientation}_{name}.nii.gz")
        prepared.append(
            apply_files(
                recipe(size=(16, 16, 16)),
                {"FLAIR": tmp_path / f"{orientation}_scan.nii.gz"},
                mask=tmp_path / f"{orientation}_mask.nii.gz",
            )
        )
    ras, other = prepared
    assert ras.images.tobytes() == other.images.tobytes()
    assert ras.mask is not None
    assert other.mask is not None
    assert ras.mask.tobytes() == other.mask.tobytes()
    assert other.grid.shape == nib.nifti1.load(tmp_path / f"{codes}_scan.nii.gz").shape


def set_nan(data: Array) -> Array:
    data[3, 3, 2] = np.nan
    return data


BAD_IMAGES: list[tuple[Callable[[Array], Array], str]] = [
    (set_nan, "1 voxels are NaN or infinite"),
    (lambda data: np.full_like(data, 7), "constant: all 210 brain voxels are 7"),
    (np.zeros_like, "no brain voxel"),
    (lambda data: np.stack([data, data], axis=3), "has 4 axes"),
]


@pytest.mark.parametrize(("spoil", "words"), BAD_IMAGES)
def test_a_bad_image_is_refused_with_its_file(tmp_path: Path, spoil: Callable[[Array], Array], words: str) -> None:
    path = tmp_path / "bad_FLAIR.nii.gz"
    nib.Nifti1Image(spoil(scan()), RAS).to_filename(path)
    with pytest.raises(VolumeError, match=rf"bad_FLAIR\.nii\.gz: .*{words}"):
        apply_files(recipe(), {"FLAIR": path})


def test_a_threshold_makes_a_probability_map_a_mask(tmp_path: Path) -> None:
    nib.Nifti1Image(scan(), RAS).to_filename(tmp_path / "scan.nii")
    probabilities = np.zeros(SHAPE, np.float32)
    probabilities[2, 3, 1:4] = (0.2, 0.5, 0.7)
    nib.Nifti1Image(probabilities, RAS).to_filename(tmp_path / "mask.nii")
    files = {"FLAIR": tmp_path / "scan.nii"}
    with pytest.raises(VolumeError, match=r"mask\.nii: not a binary mask: holds 4 values.*mask_threshold"):
        apply_files(recipe(), files, mask=tmp_path / "mask.nii")
    prepared = apply_files(recipe(mask_threshold=0.4), files, mask=tmp_path / "mask.nii")
    assert prepared.truth is not None
    assert np.argwhere(prepared.truth).tolist() == [[2, 3, 2], [2, 3, 3]]
