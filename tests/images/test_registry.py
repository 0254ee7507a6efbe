"""Which format a file is of: by its name alone, and a file of no format is answered with those that there are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mspipeline.datasets.layouts import find_cases
from mspipeline.datasets.names import Name
from mspipeline.errors import VolumeError
from mspipeline.images.registry import FORMATS, format_of
from mspipeline.volume import load_grid, load_volume, save_volume
from tests.installed_package import importable, install
from tests.plugins.format import Plain

AFFINE = np.array([[0, -2.0, 0, 5], [-1.5, 0, 0, 6], [0, 0, 3, -7], [0, 0, 0, 1]])
"""The first axis runs to the back, the second to the left, the third up."""


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[None]:
    """The package that adds the format, and some that it adds wrongly, are installed for this process."""
    points = ("plain = format:Plain", "shadow = format:Shadow", "unread = format:Unread", "nifti = format:Plain")
    entry_points = "\n".join(["[mspipeline.formats]", *points, "gone = absent:Gone", ""])
    install(tmp_path / "installed", "plain-plugins", entry_points, "format")
    with importable(tmp_path / "installed"):
        yield


@pytest.mark.parametrize("name", ["a.nii", "a.NII.GZ", "a.b.Nii.gz", "sub-01_mask.nii"])
def test_nifti_is_told_by_its_ending_whatever_its_case(name: str) -> None:
    assert format_of(Path(name)).name == "nifti"


@pytest.mark.parametrize("name", ["scan.mgz", "scan.nii.bz2", "scan", "nii.gz.txt"])
def test_a_file_of_no_format_is_one_line_with_those_that_there_are(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"1234")
    for read in (load_grid, load_volume):
        with pytest.raises(VolumeError) as error:
            read(tmp_path / name)
        assert str(error.value) == (
            f"{tmp_path / name}: of no known image format, expected one of nifti: .nii, .nii.gz; convert it, or "
            "install a package that adds its format"
        )
    with pytest.raises(VolumeError, match="of no known image format"):
        save_volume(tmp_path / "new.mgz", np.zeros((3, 2, 4), np.float32), Plain().read_grid(written(tmp_path)))
    assert not (tmp_path / "new.mgz").exists()


def written(folder: Path) -> Path:
    """A 2 x 3 x 4 file of the other format, its bytes as its description says."""
    path = folder / "scan.plain"
    start = b'{"shape": [2, 3, 4], "dtype": "<i2", "affine": ' + str(AFFINE.tolist()).encode() + b"}\n"
    path.write_bytes(start + np.arange(24, dtype="<i2").tobytes())
    return path


@pytest.mark.usefixtures("plain")
def test_a_format_of_a_package_reads_and_writes_on_the_grid_that_nibabel_sees(tmp_path: Path) -> None:
    volume = load_volume(written(tmp_path))
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4, order="F")
    reference = nib.funcs.as_closest_canonical(nib.nifti1.Nifti1Image(voxels, AFFINE))
    assert np.array_equal(volume.data, np.asarray(reference.dataobj))
    assert np.allclose(volume.grid.affine_ras, reference.affine)
    save_volume(tmp_path / "again.plain", volume.data, volume.grid)
    assert np.array_equal(load_volume(tmp_path / "again.plain").data, volume.data)
    save_volume(tmp_path / "map.nii.gz", volume.data > 3, volume.grid)  # as a prediction on such a scan is written
    image = nib.nifti1.load(tmp_path / "map.nii.gz")
    assert np.array_equal(np.asarray(image.dataobj), voxels > 3)
    assert np.allclose(image.affine, AFFINE)


@pytest.mark.usefixtures("plain")
def test_what_a_format_of_a_package_cannot_read_is_said_in_its_name(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(VolumeError) as error:
        load_volume(path)
    assert str(error.value).startswith(f"{path}: format 'plain' of another package failed (ValueError: cannot reshape")
    assert str(error.value).endswith("; repair the file or the package, or convert the image")


@pytest.mark.usefixtures("plain")
def test_broken_formats_are_named_and_the_others_read() -> None:
    assert list(FORMATS.working()) == ["nifti", "plain"]
    found = {problem.name: problem.reason for problem in FORMATS.problems()}
    assert set(found) == {"shadow", "unread", "nifti", "gone"}
    assert found["shadow"] == ("format:Shadow cannot be used (the suite reads .nii (of nifti); choose other endings)")
    assert found["unread"] == "format:Unread cannot be used (it lacks read, read_grid, write)"
    assert found["nifti"] == "the suite has that name; choose another"
    with pytest.raises(VolumeError, match=r"a\.unread: .*format 'unread' of package plain-plugins: .*\(repair"):
        format_of(Path("a.unread"))


@pytest.mark.usefixtures("plain")
def test_a_bids_folder_may_hold_scans_of_any_format_and_prefer_chooses_by_ending(tmp_path: Path) -> None:
    anat = tmp_path / "data" / "sub-01" / "anat"
    anat.mkdir(parents=True)
    for ending in (".plain", ".nii"):
        (anat / f"sub-01_T1w{ending}").write_bytes(b"1")
    (anat / "sub-01_FLAIR.plain").write_bytes(b"1")
    (anat / "sub-01_label-lesion_mask.PLAIN").write_bytes(b"1")
    (anat / "sub-01_FLAIR.mgz").write_bytes(b"1")
    found = find_cases(tmp_path / "data", ["FLAIR", "T1w"], masks="required", prefer=[".plain"])
    (case,) = found.cases
    assert [path.name for path in case.scans.values()] == ["sub-01_FLAIR.plain", "sub-01_T1w.plain"]
    assert case.lesion_mask == anat / "sub-01_label-lesion_mask.PLAIN"
    assert ("sub-01/anat/sub-01_FLAIR.mgz", "of the format .mgz, expected .nii or .nii.gz or .plain") in found.unused
    assert Name(case.lesion_mask).ending == ".plain"
