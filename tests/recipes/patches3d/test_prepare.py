"""The recipe of patches and what it makes of a case."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydantic import ValidationError

from mspipeline.config import parse
from mspipeline.errors import ConfigError, DatasetError, VolumeError
from mspipeline.recipes.catalogue import load_recipe
from mspipeline.recipes.patches3d.prepare import apply_files
from mspipeline.recipes.patches3d.recipe import Patches3d
from mspipeline.recipes.patches3d.schema import PatchSchema

RAS = np.diag([1.0, 1.0, 1.0, 1.0])
LAS = np.diag([-1.0, 1.0, 1.0, 1.0])
BOX = (slice(1, 5), slice(2, 6), slice(1, 4))


def scan(folder: Path, name: str, data: np.ndarray, affine: np.ndarray = RAS) -> Path:
    path = folder / f"{name}.nii.gz"
    nib.Nifti1Image(data, affine).to_filename(path)
    return path


def brain_block(seed: int) -> np.ndarray:
    """A skull-stripped block, negative values included, with background all around."""
    data = np.zeros((6, 7, 5), np.float32)
    data[BOX] = np.random.default_rng(seed).normal(3, 10, (4, 4, 3))
    return data


@pytest.fixture
def scans(tmp_path: Path) -> dict[str, Path]:
    return {name: scan(tmp_path, name, brain_block(seed)) for seed, name in enumerate(("T1w", "FLAIR"))}


def test_channels_follow_the_recipe_and_brains_have_mean_0_and_deviation_1(scans: dict[str, Path]) -> None:
    case = apply_files(PatchSchema(modalities=("FLAIR", "T1w")), scans)
    assert case.image.shape == (6, 7, 5, 2)
    assert case.image.flags.c_contiguous
    for channel, seed in ((0, 1), (1, 0)):
        data = brain_block(seed)
        values = case.image[..., channel]
        assert values[BOX].mean() == pytest.approx(0, abs=1e-6)
        assert values[BOX].std() == pytest.approx(1, abs=1e-6)
        assert not values[data == 0].any()
        assert np.corrcoef(values[BOX].ravel(), data[BOX].ravel())[0, 1] == pytest.approx(1)
    assert np.array_equal(case.brain, brain_block(1) != 0)


def test_the_spread_of_the_volume_is_that_of_the_shifted_image_background_included(scans: dict[str, Path]) -> None:
    recipe = PatchSchema(modalities=("T1w", "FLAIR"), spread="volume", zero_outside_brain=False)
    image = apply_files(recipe, scans).image
    for channel in (0, 1):
        data = brain_block(channel).astype(np.float64)
        shifted = data - data[data != 0].mean()
        assert np.allclose(image[..., channel], shifted / shifted.std(), atol=1e-6)
        assert image[0, 0, 0, channel] == pytest.approx(-data[data != 0].mean() / shifted.std(), abs=1e-6)


def test_what_lies_outside_a_brain_mask_is_taken_for_zero(tmp_path: Path, scans: dict[str, Path]) -> None:
    brain = brain_block(0) != 0
    mask = scan(tmp_path, "brain", brain.astype(np.uint8))
    with_skull = {}
    for seed, name in enumerate(("T1w", "FLAIR")):
        data = brain_block(seed)
        data[0, 0, 0] = 5000
        with_skull[name] = scan(tmp_path, f"skull_{name}", data)
    for recipe in (PatchSchema(modalities=("T1w", "FLAIR"), spread=spread) for spread in ("brain", "volume")):
        assert np.array_equal(apply_files(recipe, with_skull, mask).image, apply_files(recipe, scans).image)


def test_images_come_in_canonical_orientation(tmp_path: Path, scans: dict[str, Path]) -> None:
    flipped = {name: scan(tmp_path, f"las_{name}", brain_block(k)[::-1], LAS) for k, name in enumerate(scans)}
    recipe = PatchSchema(modalities=("T1w", "FLAIR"), spread="volume")
    assert np.array_equal(apply_files(recipe, flipped).image, apply_files(recipe, scans).image)


def test_scans_that_do_not_fit_are_named(tmp_path: Path, scans: dict[str, Path]) -> None:
    recipe = PatchSchema(modalities=("T1w", "FLAIR"))
    with pytest.raises(DatasetError, match="brain = 'mask' but the case has no brain mask"):
        apply_files(recipe.model_copy(update={"brain": "mask"}), scans)
    shifted = np.array(RAS)
    shifted[0, 3] = 3
    other = {**scans, "FLAIR": scan(tmp_path, "moved", brain_block(1), shifted)}
    with pytest.raises(DatasetError, match=r"T1w\.nii\.gz .* and .*moved\.nii\.gz .* are on different grids"):
        apply_files(recipe, other)
    constant = {**scans, "FLAIR": scan(tmp_path, "flat", np.ones((6, 7, 5), np.float32))}
    with pytest.raises(VolumeError, match=r"flat\.nii\.gz: constant"):
        apply_files(recipe, constant)


def test_the_built_in_file_lists_every_default() -> None:
    assert load_recipe("patches3d") == Patches3d(PatchSchema())
    text = (Path(__file__).parents[3] / "mspipeline/recipes/patches3d/patches3d.toml").read_text()
    for key in PatchSchema.model_fields:
        assert f"{key} =" in text


def test_overrides_and_files_of_ones_own_are_read_as_what_they_say_they_are(tmp_path: Path) -> None:
    changed = load_recipe("patches3d", {"modalities": ["FLAIR", "T1w"], "compression": "gzip"})
    assert isinstance(changed.settings, PatchSchema)
    assert changed.image_shape == (11, 11, 11, 2)
    own = tmp_path / "own.toml"
    own.write_text('kind = "patches3d"\npatch_size = [5, 5, 3]\n')
    assert load_recipe(own).image_shape == (5, 5, 3, 3)
    own.write_text('kind = "patches2d"\n')
    with pytest.raises(ConfigError, match=r"own\.toml: kind: unknown recipe 'patches2d'; did you mean 'patches3d'"):
        load_recipe(own)
    with pytest.raises(ConfigError, match="unknown key 'size'"):
        load_recipe("patches3d", {"size": [64, 64, 64]})
    with pytest.raises(ConfigError, match="patches3d: a recipe of patches, expected one of slices"):
        load_recipe("patches3d").check_importable("patches3d")


def test_lesions_are_read_on_the_same_grid_and_cut_at_a_threshold_where_one_is_set(
    scans: dict[str, Path], tmp_path: Path
) -> None:
    recipe = PatchSchema(modalities=("FLAIR", "T1w"))
    truth = np.zeros((6, 7, 5), np.float32)
    truth[2, 3, 1], truth[3, 3, 1] = 0.9, 0.4
    path = scan(tmp_path, "probable", truth, LAS)
    soft = recipe.model_copy(update={"mask_threshold": 0.5})
    on_scans_grid = {name: scan(tmp_path, f"las-{name}", brain_block(2), LAS) for name in ("FLAIR", "T1w")}
    case = apply_files(soft, on_scans_grid, lesions=path)
    assert case.lesions is not None
    assert np.argwhere(case.lesions).tolist() == [[6 - 1 - 2, 3, 1]]  # x runs to the left in the file
    assert (case.brain_source, set(case.intensity)) == ("nonzero", {"FLAIR", "T1w"})
    assert case.intensity["FLAIR"].mean == pytest.approx(float(brain_block(2)[BOX].astype(float).mean()))
    with pytest.raises(VolumeError, match="not a binary mask"):
        apply_files(recipe, on_scans_grid, lesions=path)
    with pytest.raises(DatasetError, match=r"FLAIR\.nii\.gz .* and .*probable\.nii\.gz .* are on different grids"):
        apply_files(soft, scans, lesions=path)


def test_a_wrong_recipe_is_one_line() -> None:
    with pytest.raises(ConfigError, match="candidates_of must be one of the modalities, T1w, T2w"):
        parse({"modalities": ["T1w", "T2w"]}, PatchSchema, where="recipe")
    with pytest.raises(ConfigError, match="each named once"):
        parse({"modalities": ["FLAIR", "FLAIR"]}, PatchSchema, where="recipe")
    with pytest.raises(ConfigError, match=r"unknown key 'spred'; did you mean 'spread'"):
        parse({"spred": "brain"}, PatchSchema, where="recipe")


def test_a_recipe_of_shards_that_version_0_1_wrote_is_read() -> None:
    keys = {"kind": "patches3d", "modalities": ["FLAIR"], "materialise": "none", "materialised_negatives": 1.0}
    assert PatchSchema.model_validate(keys).modalities == ("FLAIR",)
    with pytest.raises(ValidationError, match="materialise"):
        PatchSchema.model_validate({"modalities": ["FLAIR"], "materialise": "float32"})
