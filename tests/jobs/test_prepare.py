"""Scans to shards, on real files."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest

from mspipeline.config import PrepareJob, SplitSettings
from mspipeline.errors import DatasetError, ShardError, StorageError, SuiteError, UsageError, VolumeError
from mspipeline.files import sha256_file
from mspipeline.jobs.work.prepare import prepare
from mspipeline.recipes.catalogue import recipe_of
from mspipeline.recipes.slices2d.shard import SliceEntry
from mspipeline.shards.manifest import Manifest, entries_as, load_manifest, verify_shards
from tests.command_line import small_disk

Array = npt.NDArray[Any]
SHAPE = (16, 18, 14)
SMALL = {"size": (16, 16, 16)}
LAS = np.diag([-1.0, 1.0, 1.0, 1.0])


def brain(seed: int) -> Array:
    data = np.zeros(SHAPE, np.float32)
    data[3:13, 3:15, 2:12] = np.random.default_rng(seed).normal(20, 10, (10, 12, 10)).astype(np.float32)
    return data


def lesions() -> Array:
    mask = np.zeros(SHAPE, np.uint8)
    mask[6:9, 7:9, 5:8] = 1
    return mask


def save(path: Path, data: Array, affine: Array = LAS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(data, affine).to_filename(path)


def flair(dataset: Path, subject: str) -> Path:
    return dataset / subject / "anat" / f"{subject}_FLAIR.nii.gz"


def mask(dataset: Path, subject: str) -> Path:
    return dataset / "derivatives/lesions" / subject / "anat" / f"{subject}_label-lesion_mask.nii.gz"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three subjects with FLAIR and lesion masks."""
    folder = tmp_path / "scans"
    for number in (1, 2, 3):
        save(flair(folder, f"sub-{number:02d}"), brain(number))
        save(mask(folder, f"sub-{number:02d}"), lesions())
    return folder


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "shards"


def image_shape_of(manifest: Manifest) -> tuple[int, ...]:
    return recipe_of(manifest.recipe, where="manifest").image_shape


def run(dataset: Path, output: Path, recipe: dict[str, Any] | None = None, **keys: Any) -> Manifest:
    return prepare(PrepareJob(dataset=dataset, output=output, **keys), recipe_overrides={**SMALL, **(recipe or {})})


def files_of(folder: Path) -> dict[str, tuple[str, int]]:
    """Every file below a folder with its hash and the time it was last written."""
    return {
        path.relative_to(folder).as_posix(): (sha256_file(path), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def data_of(folder: Path) -> dict[str, str]:
    """Every file below a shards folder with its hash, but for prepare.json: that one tells the time."""
    return {name: digest for name, (digest, _) in files_of(folder).items() if name != "prepare.json"}


def test_one_shard_per_case_and_a_manifest_that_fits_them(dataset: Path, output: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    manifest = prepare(
        PrepareJob(dataset=dataset, output=output), recipe_overrides=SMALL, report=lambda *step: steps.append(step)
    )
    assert steps == [("sub-01", 1, 3), ("sub-02", 2, 3), ("sub-03", 3, 3)]
    assert set(files_of(output)) == {"manifest.json", "prepare.json", *(f"cases/sub-0{n}.h5" for n in (1, 2, 3))}
    assert load_manifest(output) == manifest
    verify_shards(output, manifest)
    assert (manifest.dataset_name, manifest.channels, image_shape_of(manifest)) == ("scans", ("FLAIR",), (16, 16, 1))
    assert sorted((*manifest.split.train, *manifest.split.validation, *manifest.split.test)) == [
        "sub-01",
        "sub-02",
        "sub-03",
    ]


def test_the_truth_in_the_shard_is_the_mask_file_voxel_by_voxel(dataset: Path, output: Path) -> None:
    run(dataset, output)
    with h5py.File(output / "cases/sub-01.h5") as file:
        stored = file["scan_mask"][...]
    canonical = nib.as_closest_canonical(nib.nifti1.load(mask(dataset, "sub-01")))
    assert np.array_equal(stored, np.asarray(canonical.dataobj))


def test_two_folders_of_the_same_scans_hold_the_same_bytes(dataset: Path, output: Path, tmp_path: Path) -> None:
    run(dataset, output)
    moved = tmp_path / "elsewhere" / "scans"
    shutil.copytree(dataset, moved)
    run(moved, tmp_path / "again")
    assert data_of(output) == data_of(tmp_path / "again")


def test_a_second_prepare_writes_nothing(dataset: Path, output: Path) -> None:
    first = run(dataset, output)
    before = files_of(output)
    assert run(dataset, output) == first
    assert files_of(output) == before


def test_another_split_keeps_the_shards_and_writes_the_manifest(dataset: Path, output: Path) -> None:
    run(dataset, output)
    before = files_of(output)
    changed = run(dataset, output, split=SplitSettings(validation=0, test=0))
    assert changed.split.train == ("sub-01", "sub-02", "sub-03")
    after = files_of(output)
    assert after.pop("manifest.json") != before.pop("manifest.json")
    assert after == before


@pytest.mark.parametrize("with_manifest", [True, False])
def test_only_missing_and_damaged_shards_are_made_again(dataset: Path, output: Path, with_manifest: bool) -> None:
    run(dataset, output)
    before, data = files_of(output), data_of(output)
    (output / "cases/sub-01.h5").unlink()
    damaged = output / "cases/sub-03.h5"
    damaged.write_bytes(damaged.read_bytes()[:-1000])
    (output / "cases/sub-02.h5.partial").write_bytes(b"of a killed prepare")
    if not with_manifest:
        (output / "manifest.json").unlink()

    run(dataset, output)

    assert data_of(output) == data
    assert files_of(output)["cases/sub-02.h5"] == before["cases/sub-02.h5"]


@pytest.mark.parametrize("with_manifest", [True, False])
def test_shards_of_another_recipe_or_of_other_scans_are_not_touched(
    dataset: Path, output: Path, with_manifest: bool
) -> None:
    run(dataset, output)
    if not with_manifest:
        (output / "manifest.json").unlink()
    before = files_of(output)
    with pytest.raises(ShardError, match=r"another recipe.*choose another output folder, or delete"):
        run(dataset, output, {"size": (8, 8, 8)})
    save(flair(dataset, "sub-01"), brain(9))
    with pytest.raises(ShardError, match=r"(another dataset|other files).*choose another output folder, or delete"):
        run(dataset, output)
    assert files_of(output) == before


def test_shards_of_cases_that_are_gone_are_not_mixed_in(dataset: Path, output: Path) -> None:
    run(dataset, output)
    (output / "manifest.json").unlink()
    shutil.rmtree(dataset / "sub-02")
    with pytest.raises(ShardError, match=r"cases that are not prepared now \(sub-02\)"):
        run(dataset, output)


def test_a_folder_of_something_else_is_not_written_to(dataset: Path, output: Path) -> None:
    output.mkdir()
    (output / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match=r"not a shards folder \(holds thesis\.tex\); choose a new folder"):
        run(dataset, output)
    with pytest.raises(UsageError, match="a file, expected a folder"):
        run(dataset, output / "thesis.tex")
    assert [path.name for path in output.iterdir()] == ["thesis.tex"]


def test_incomplete_cases_fail_the_command_in_one_line_before_any_work(dataset: Path, output: Path) -> None:
    flair(dataset, "sub-01").unlink()
    mask(dataset, "sub-03").unlink()
    with pytest.raises(DatasetError, match=r"2 of 3 .*sub-01: no FLAIR .*sub-03: no lesion mask.*--skip-incomplete"):
        run(dataset, output)
    assert not output.exists()


def test_incomplete_cases_are_left_out_and_recorded_where_asked_for(dataset: Path, output: Path) -> None:
    flair(dataset, "sub-01").unlink()
    manifest = run(dataset, output, skip_incomplete=True)
    assert [entry.case for entry in manifest.cases] == ["sub-02", "sub-03"]
    assert [(skipped.case, skipped.reason) for skipped in manifest.skipped] == [
        ("sub-01", "no FLAIR (has no scan)"),
    ]


def test_a_dataset_without_any_mask_is_refused_even_then(dataset: Path, output: Path) -> None:
    shutil.rmtree(dataset / "derivatives")
    with pytest.raises(DatasetError, match="none of 3 cases is complete"):
        run(dataset, output, skip_incomplete=True)


def four_axes(dataset: Path) -> None:
    save(flair(dataset, "sub-02"), np.stack([brain(2), brain(2)], axis=3))


def nan(dataset: Path) -> None:
    data = brain(2)
    data[8, 8, 8] = np.nan
    save(flair(dataset, "sub-02"), data)


def constant(dataset: Path) -> None:
    save(flair(dataset, "sub-02"), np.full(SHAPE, 5, np.float32))


def truncated(dataset: Path) -> None:
    path = flair(dataset, "sub-02")
    path.write_bytes(path.read_bytes()[:-2000])


def not_binary(dataset: Path) -> None:
    save(mask(dataset, "sub-02"), lesions() * 3)


def other_grid(dataset: Path) -> None:
    save(mask(dataset, "sub-02"), lesions(), np.diag([-1.0, 1.0, 1.5, 1.0]))


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (four_axes, VolumeError, r"sub-02_FLAIR\.nii\.gz: has 4 axes"),
        (nan, VolumeError, r"sub-02_FLAIR\.nii\.gz: 1 voxels are NaN"),
        (constant, VolumeError, r"sub-02_FLAIR\.nii\.gz: constant: all 4032 brain voxels are 5"),
        (truncated, VolumeError, r"sub-02_FLAIR\.nii\.gz: truncated"),
        (not_binary, VolumeError, r"sub-02_label-lesion_mask\.nii\.gz: not a binary mask: holds 2 values \(0, 3\)"),
        (other_grid, DatasetError, r"sub-02_FLAIR\.nii\.gz .*sub-02_label-lesion_mask\.nii\.gz .*different grids"),
    ],
)
def test_one_bad_case_fails_the_command_by_name_and_whole_shards_stay(
    dataset: Path, output: Path, spoil: Callable[[Path], None], error: type[SuiteError], words: str
) -> None:
    spoil(dataset)
    with pytest.raises(error, match=words) as raised:
        run(dataset, output)
    assert raised.value.exit_code == 65
    assert "\n" not in str(raised.value)
    left = {path.name for path in output.rglob("*") if path.is_file()}
    assert left <= {"sub-01.h5"}


def test_an_empty_mask_is_a_healthy_case(dataset: Path, output: Path) -> None:
    save(mask(dataset, "sub-02"), lesions() * 0)
    manifest = run(dataset, output)
    assert [entry.lesion_voxels > 0 for entry in entries_as(SliceEntry, manifest.cases)] == [True, False, True]


def test_one_anatomy_in_two_orientations_gives_the_same_slices(dataset: Path, output: Path) -> None:
    to_psr = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("LAS"), nib.orientations.axcodes2ornt("PSR"))
    for source, target in (
        (flair(dataset, "sub-01"), flair(dataset, "sub-02")),
        (mask(dataset, "sub-01"), mask(dataset, "sub-02")),
    ):
        nib.nifti1.load(source).as_reoriented(to_psr).to_filename(target)
    run(dataset, output)
    with h5py.File(output / "cases/sub-01.h5") as las, h5py.File(output / "cases/sub-02.h5") as psr:
        assert las["image"][...].any()
        for name in ("image", "mask", "scan_mask"):
            assert np.array_equal(las[name][...], psr[name][...])
        assert las.attrs["scan_grid"] != psr.attrs["scan_grid"]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system with room for two shards of the three."""
    with small_disk(tmp_path / "full", 80) as folder:
        yield folder


def test_a_full_disk_stops_with_the_whole_shards_left(dataset: Path, full_disk: Path) -> None:
    with pytest.raises(StorageError, match=r"No space left on device.*nothing half-written was left") as raised:
        run(dataset, full_disk)
    assert raised.value.exit_code == 74
    assert {path.name for path in full_disk.rglob("*") if path.is_file()} == {"sub-01.h5", "sub-02.h5"}


CHILD = """
import sys
from pathlib import Path
from mspipeline.jobs.work.prepare import prepare
from mspipeline.config import PrepareJob
from mspipeline.errors import SuiteError
job = PrepareJob(dataset=Path(sys.argv[1]), output=Path(sys.argv[2]))
try:
    prepare(job, recipe_overrides={"size": (96, 96, 96)}, report=lambda *step: print(*step, flush=True))
except SuiteError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""


def test_ctrl_c_leaves_whole_shards_and_the_next_prepare_makes_the_others(dataset: Path, output: Path) -> None:
    for number in range(4, 11):
        save(flair(dataset, f"sub-{number:02d}"), brain(number))
        save(mask(dataset, f"sub-{number:02d}"), lesions())
    command = [sys.executable, "-c", CHILD, str(dataset), str(output)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "sub-01 1 10\n"
        child.send_signal(signal.SIGINT)
        said = child.stdout.read().splitlines()[-1]
    assert child.returncode == 130
    assert "stopped by Ctrl-C, finished shards are kept; run the same command again" in said
    left = {path.name for path in output.rglob("*") if path.is_file()}
    assert "sub-01.h5" in left
    assert "sub-10.h5" not in left
    assert not [name for name in left if not name.endswith(".h5")]

    first = files_of(output)["cases/sub-01.h5"]
    subprocess.run(command, check=True, capture_output=True)

    assert files_of(output)["cases/sub-01.h5"] == first
    verify_shards(output, load_manifest(output))
    fresh = output.with_name("fresh")
    run(dataset, fresh, {"size": (96, 96, 96)})
    assert sha256_file(fresh / "manifest.json") == sha256_file(output / "manifest.json")


def brain_mask(dataset: Path, subject: str) -> Path:
    return dataset / "derivatives/brain" / subject / "anat" / f"{subject}_desc-brain_mask.nii.gz"


def test_the_manifest_says_where_each_brain_comes_from_kept_shards_included(dataset: Path, output: Path) -> None:
    inside = np.zeros(SHAPE, np.uint8)
    inside[4:12, 4:14, 3:11] = 1  # 8 x 10 x 8 of 16 x 18 x 14 voxels, all lesions in it
    for subject in ("sub-01", "sub-02", "sub-03"):
        save(brain_mask(dataset, subject), inside)
    first = run(dataset, output)
    for entry in first.cases:
        assert entry.brain is not None
        assert (entry.brain.source, entry.brain.lesions_outside) == ("mask", 0.0)
        assert entry.brain.share == pytest.approx(640 / 4032)
    assert (first.brain_sources, first.warnings) == ({"mask": 3}, ())
    (output / "manifest.json").unlink()
    assert run(dataset, output).cases == first.cases


def test_brains_of_two_sources_are_refused_unless_asked_for(dataset: Path, output: Path, tmp_path: Path) -> None:
    save(brain_mask(dataset, "sub-02"), (brain(2) != 0).astype(np.uint8))
    with pytest.raises(DatasetError, match=r"2 of 3 cases have no brain mask \(sub-01, sub-03\).*--set brain=mixed"):
        run(dataset, output)
    assert not output.exists()
    assert run(dataset, output, {"brain": "mixed"}).brain_sources == {"nonzero": 2, "mask": 1}
    assert run(dataset, tmp_path / "nonzero", {"brain": "nonzero"}).brain_sources == {"nonzero": 3}


def test_a_background_that_is_not_0_is_refused_and_taken_where_asked_for(dataset: Path, output: Path) -> None:
    for number in (1, 2, 3):
        save(flair(dataset, f"sub-{number:02d}"), np.where(brain(number) == 0, np.float32(-1), brain(number)))
    with pytest.raises(VolumeError, match=r"sub-01: .*sub-01_FLAIR\.nii\.gz: 100% of the voxels are not 0"):
        run(dataset, output)
    manifest = run(dataset, output, {"brain": "nonzero"})
    (warning,) = manifest.warnings
    assert warning.startswith("the brain of sub-01, sub-02, sub-03, taken from the voxels that are not 0, fills more")


def test_an_inverted_brain_mask_is_doubted(dataset: Path, output: Path) -> None:
    for number in (1, 2, 3):
        save(brain_mask(dataset, f"sub-{number:02d}"), (brain(number) == 0).astype(np.uint8))
        save(flair(dataset, f"sub-{number:02d}"), np.random.default_rng(number).normal(9, 1, SHAPE).astype(np.float32))
    assert any("lacks more than 10% of the lesion voxels" in warning for warning in run(dataset, output).warnings)


def test_one_scan_under_two_subjects_is_named(dataset: Path, output: Path) -> None:
    shutil.copy(flair(dataset, "sub-01"), flair(dataset, "sub-03"))
    (warning,) = run(dataset, output).warnings
    assert warning == "one scan, byte by byte, under several subjects: sub-01 = sub-03; keep one of them"


def test_a_subject_in_latin1_bytes_is_prepared_under_a_name_that_tables_can_have(dataset: Path, output: Path) -> None:
    latin = os.fsdecode(b"sub-M\xfcller")
    save(flair(dataset, latin), brain(4))
    save(mask(dataset, latin), lesions())
    manifest = run(dataset, output)
    assert "sub-M%FCller" in [entry.case for entry in manifest.cases]
    assert load_manifest(output) == manifest
    assert (output / "cases/sub-M%FCller.h5").exists()
    assert run(dataset, output) == manifest


def test_a_dataset_that_is_a_link_on_a_read_only_place_is_prepared(dataset: Path, output: Path, tmp_path: Path) -> None:
    kept = run(dataset, tmp_path / "kept")
    link = tmp_path / "link"
    link.symlink_to(dataset)
    for path in (dataset, *dataset.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert run(link, output).dataset_hash == kept.dataset_hash
    finally:
        for path in (dataset, *dataset.rglob("*")):
            path.chmod(0o755)


def test_a_phantom_is_prepared_with_its_brain_masks(small_dataset: Path, output: Path) -> None:
    manifest = run(small_dataset, output, {"modalities": ["FLAIR", "T1w"]})
    assert image_shape_of(manifest) == (16, 16, 2)
    with h5py.File(output / manifest.cases[0].file) as file:
        assert file.attrs["brain_source"] == "mask"


def test_modalities_on_different_grids_are_refused_with_the_option_that_resamples(dataset: Path, output: Path) -> None:
    for subject in ("sub-01", "sub-02", "sub-03"):
        save(dataset / subject / "anat" / f"{subject}_T1w.nii.gz", brain(4)[:, ::2], np.diag([-1.0, 2.0, 1.0, 1.0]))
    both = {"modalities": ["FLAIR", "T1w"]}
    with pytest.raises(
        DatasetError,
        match=r"sub-01: .*different grids, of other shapes; put all on one with --resample-to FLAIR \(by th",
    ):
        run(dataset, output, both)
    xfm = dataset / "sub-02/anat/sub-02_from-T1w_to-FLAIR_mode-image_xfm.txt"
    xfm.write_text(
        "#Insight Transform File V1.0\nTransform: AffineTransform_double_3_3\n"
        "Parameters: 1 0 0 0 1 0 0 0 1 0 0 0\nFixedParameters: 0 0 0\n"
    )
    manifest = run(dataset, output, both, resample_to="FLAIR")
    assert manifest.recipe["resample_to"] == "FLAIR"
    assert manifest.resampled == {
        "sub-01": {"T1w": "headers"},
        "sub-02": {"T1w": "sub-02_from-T1w_to-FLAIR_mode-image_xfm.txt"},
        "sub-03": {"T1w": "headers"},
    }
    with h5py.File(output / "cases/sub-02.h5") as file:
        assert "sub-02/anat/sub-02_from-T1w_to-FLAIR_mode-image_xfm.txt" in file.attrs["sources"]
    before = data_of(output)
    xfm.write_text(xfm.read_text().replace("1 0 0 0\n", "1 0 0 3\n"))
    with pytest.raises(ShardError, match="another dataset or of other versions of its files"):
        run(dataset, output, both, resample_to="FLAIR")
    xfm.write_text("#Insight Transform File V1.0\n")
    with pytest.raises(DatasetError, match=r"sub-02_from-T1w.*_xfm\.txt: not an ITK transform"):
        run(dataset, output.with_name("other"), both, resample_to="FLAIR")
    assert data_of(output) == before


def thin_slices(dataset: Path, subject: str, *voxels: tuple[int, int, int]) -> None:
    """The lesion mask of a subject, drawn on slices a third as thick; the middle one of three is the scan's own."""
    drawn = np.zeros((16, 18, 42), np.uint8)
    for voxel in voxels:
        drawn[voxel] = 1
    affine = np.diag([-1.0, 1.0, 1 / 3, 1.0])
    affine[2, 3] = -1 / 3
    save(mask(dataset, subject), drawn, affine)


def test_what_resampling_does_to_lesions_is_in_the_manifest_and_in_the_shard(dataset: Path, output: Path) -> None:
    thin_slices(dataset, "sub-01", (4, 4, 13), (8, 8, 16), (11, 11, 20))
    manifest = run(dataset, output, {"size": SHAPE}, resample_to="FLAIR")
    counts = {entry.case: entry.counts for entry in manifest.cases}
    assert all(counts.values())
    one, other = counts["sub-01"], counts["sub-02"]
    assert one is not None
    assert other is not None
    # Thin slices 13 and 16 are in the middle of thick slices 4 and 5, 20 is the last of slice 6.
    assert (one.drawn.lesions, one.drawn.ml) == (3, 0.001)
    assert (one.scan.lesions, one.scan.ml, one.lost_on_scan, one.outside) == (2, 0.002, 1, 0.0)
    assert (one.stored, one.lost_in_slices) == (one.scan, 0)
    assert one.warning() == "3 lesions of 0.001 ml drawn, 2 lesions of 0.002 ml on the scan's grid (1 lost)"
    # 3 x 2 x 3 voxels of 1 mm, on the scan's own grid.
    assert (other.drawn, other.scan, other.stored) == (other.drawn,) * 3
    assert (other.drawn.lesions, other.drawn.ml, other.warning()) == (1, 0.018, None)
    (output / "manifest.json").unlink()
    assert run(dataset, output, {"size": SHAPE}, resample_to="FLAIR") == manifest  # the shards know it


def test_a_mask_that_resampling_takes_away_is_refused_and_leaves_whole_shards(dataset: Path, output: Path) -> None:
    thin_slices(dataset, "sub-02", (4, 4, 12), (8, 8, 15), (11, 11, 19))
    with pytest.raises(
        DatasetError,
        match=r"sub-02: .*sub-02_label-lesion_mask\.nii\.gz: on the grid of .*: 3 lesions of 0\.001 ml become 1 "
        r"lesion of 0\.001 ml \(26-connected; 2 lost\), expected at least 50%.*; check that this mask belongs",
    ):
        run(dataset, output, {"size": SHAPE}, resample_to="FLAIR")
    assert {path.name for path in output.rglob("*") if path.is_file()} <= {"sub-01.h5"}


@pytest.mark.parametrize("resample_to", [None, "FLAIR"])
def test_a_file_of_another_space_is_refused_before_any_work_unless_a_transform_leads_there(
    dataset: Path, output: Path, resample_to: str | None
) -> None:
    native = mask(dataset, "sub-02")
    declared = native.with_name("sub-02_space-MNI152NLin6Asym_label-lesion_mask.nii.gz")
    native.unlink()
    moved = LAS.copy()
    moved[:3, 3] = (4, 9, -12)
    save(declared, lesions(), moved)
    with pytest.raises(
        DatasetError,
        match=r"sub-02: .*up to 15\.5 mm apart.*different spaces \(sub-02_space-MNI152NLin6Asym.*_xfm\.txt \(ITK\)",
    ):
        run(dataset, output, resample_to=resample_to)
    assert not output.exists()
    if resample_to is None:
        return
    # x to the left and y to the back in LPS: from the scan's place to the template's.
    native.with_name("sub-02_from-FLAIR_to-MNI152NLin6Asym_mode-image_xfm.txt").write_text(
        "#Insight Transform File V1.0\nTransform: AffineTransform_double_3_3\n"
        "Parameters: 1 0 0 0 1 0 0 0 1 4 9 12\nFixedParameters: 0 0 0\n"
    )
    run(dataset, output, resample_to=resample_to)
    with h5py.File(output / "cases/sub-02.h5") as file:
        assert np.array_equal(file["scan_mask"][...], lesions()[::-1])


def test_files_that_are_nearly_on_one_grid_are_taken_and_the_distance_is_kept(dataset: Path, output: Path) -> None:
    near = LAS.copy()
    near[1, 3] = 0.07
    save(mask(dataset, "sub-02"), lesions(), near)
    manifest = run(dataset, output)
    assert manifest.offsets_mm == {"sub-02": {"lesions": pytest.approx(0.07, abs=1e-4)}}
    far = LAS.copy()
    far[1, 3] = 0.13
    save(mask(dataset, "sub-02"), lesions(), far)
    with pytest.raises(DatasetError, match=r"on different grids, up to 0\.13 mm apart; put all on one with --resample"):
        run(dataset, output.with_name("other"))


def test_files_that_do_not_say_where_they_lie_are_a_warning(dataset: Path, output: Path) -> None:
    for path in (flair(dataset, "sub-02"), mask(dataset, "sub-02")):
        image = nib.nifti1.load(path)
        bare = nib.Nifti1Image(np.asarray(image.dataobj), None)
        bare.header.set_qform(None, 0)
        bare.header.set_sform(None, 0)
        bare.to_filename(path)
    manifest = run(dataset, output)
    assert manifest.warnings == (
        "1 of 3 cases have files with neither qform nor sform, so that nothing tells left from right: their first axis "
        "is taken to run to the left; sub-02 (FLAIR, lesions)",
    )
    with h5py.File(output / "cases/sub-02.h5") as file:
        assert np.array_equal(file["scan_mask"][...], lesions()[::-1])


def test_a_mask_stored_in_another_orientation_lies_on_the_scan(dataset: Path, output: Path) -> None:
    run(dataset, output)
    turned = nib.nifti1.load(mask(dataset, "sub-01")).as_reoriented(np.array([[2, -1], [0, 1], [1, 1]]))
    turned.to_filename(mask(dataset, "sub-01"))
    run(dataset, output.with_name("turned"))
    with h5py.File(output / "cases/sub-01.h5") as one, h5py.File(output.with_name("turned") / "cases/sub-01.h5") as two:
        assert one["scan_mask"][...].any()
        assert np.array_equal(one["scan_mask"][...], two["scan_mask"][...])
        assert one.attrs["scan_grid"] == two.attrs["scan_grid"]


@pytest.mark.real
def test_real_scans_as_they_were_scanned_are_prepared_on_one_grid(real_data: Path, output: Path) -> None:
    two = {"modalities": ["FLAIR", "T1w"], "size": (64, 64, 48)}
    with pytest.raises(DatasetError, match=r"marks only lesions that changed .*--change-mask"):
        run(real_data / "ms-raw", output, two)
    with pytest.raises(DatasetError, match=r"--resample-to FLAIR \(through .*study1_T1W_intrastudy_to_FLAIR\.txt"):
        run(real_data / "ms-raw", output, two, change_mask=True)
    manifest = run(real_data / "ms-raw", output, two, change_mask=True, resample_to="FLAIR")
    to_common = "inverse of study1_FLAIR_to_common_space.txt"
    assert manifest.resampled == {
        "sub-msraw_ses-study1": {
            "T1w": "study1_T1W_intrastudy_to_FLAIR.txt",
            "lesions": to_common,
            "brain": to_common,
        }
    }
    with h5py.File(output / manifest.cases[0].file) as file:
        assert file["scan_mask"].shape == (320, 320, 48)
        # The mask of 0.90 mm drawn in the common space, on voxels of 0.72 mm: the same volume within 5 %.
        drawn = np.asarray(nib.nifti1.load(real_data / "ms-raw/gt_commonspace.nii.gz").dataobj).sum()
        assert file["scan_mask"][...].sum() * 0.719**2 == pytest.approx(drawn * 0.898**2, rel=0.05)


@pytest.mark.real
def test_real_cases_need_every_modality_or_the_word_to_skip(real_data: Path, output: Path) -> None:
    two = {"modalities": ["FLAIR", "T2w"], "size": (32, 32, 32)}
    with pytest.raises(DatasetError, match=r"sub-msseg18: no T2w \(has FLAIR, T1w\)"):
        run(real_data / "ms", output, two)
    manifest = run(real_data / "ms", output, two, skip_incomplete=True)
    assert [entry.case for entry in manifest.cases] == ["sub-openms07", "sub-openms26"]
    assert [skipped.case for skipped in manifest.skipped] == ["sub-msseg18"]


@pytest.mark.real
def test_real_scans_keep_their_grid_and_their_truth(real_data: Path, output: Path) -> None:
    run(real_data / "ms-tiny", output, {"size": (64, 64, 64)})
    source = real_data / "ms-tiny/derivatives/lesions/sub-slicer01/anat/sub-slicer01_label-lesion_mask.nii.gz"
    truth = np.asarray(nib.as_closest_canonical(nib.nifti1.load(source)).dataobj)
    with h5py.File(output / "cases/sub-slicer01.h5") as file:
        assert file.attrs["brain_source"] == "mask"
        assert np.array_equal(file["scan_mask"][...], truth)
        # 85^3 voxels to 64^3: each stands for (85/64)^3 of them.
        assert file["mask"][...].sum() * (85 / 64) ** 3 == pytest.approx(truth.sum(), rel=0.15)
