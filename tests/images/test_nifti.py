"""Headers as they are met in the field: each bad one is refused by the name of its field, each good one is kept."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mspipeline.errors import VolumeError
from mspipeline.volume import load_grid, load_volume, save_volume

SHAPE = (6, 7, 5)
FORM_FIELDS = (
    *("qform_code", "sform_code", "xyzt_units", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
Bytes = bytearray


def turned(degrees: float) -> np.ndarray:
    """(4, 4), voxels of 1 x 2 x 3 mm turned about z, the first axis flipped."""
    angle = np.deg2rad(degrees)
    affine = np.diag([-1.0, 2.0, 3.0, 1.0])
    affine[:2, :2] = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ affine[:2, :2]
    affine[:3, 3] = (12.5, -7.25, 3.0)
    return affine


def content(data: np.ndarray | None = None, codes: tuple[int, int] = (1, 1), kind: Any = nib.Nifti1Image) -> Bytes:
    """The bytes of an uncompressed NIfTI file."""
    data = np.arange(210, dtype=np.float32).reshape(SHAPE) if data is None else data
    image = kind(data, turned(20))
    image.set_qform(turned(20), codes[0])
    image.set_sform(turned(20), codes[1])
    return Bytes(image.to_bytes())


def put(form: str, at: int, *values: Any) -> Callable[[Bytes], None]:
    """What writes numbers into a header at a byte. Offsets are those of nifti1.h."""
    return lambda raw: struct.pack_into("<" + form, raw, at, *values)


def only_qform(*more: Callable[[Bytes], None]) -> Callable[[Bytes], None]:
    def spoil(raw: Bytes) -> None:
        put("h", 254, 0)(raw)
        for change in more:
            change(raw)

    return spoil


def write(path: Path, raw: bytes | bytearray) -> Path:
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (put("8h", 40, 3, 6, 7, -5, 1, 1, 1, 1), r"dimensions \(6, 7, -5\), expected positive"),
        (put("8h", 40, 3, 6, 0, 5, 1, 1, 1, 1), r"dimensions \(6, 0, 5\), expected positive"),
        (put("8h", 40, 0, 6, 7, 5, 1, 1, 1, 1), r"dim\[0\] 0, expected 1 to 7"),
        (put("8h", 40, 2, 6, 35, 1, 1, 1, 1, 1), r"has 2 axes \(6, 35\), expected a 3-D image"),
        (put("8h", 40, 4, 6, 7, 1, 5, 1, 1, 1), r"has 4 axes \(6, 7, 1, 5\), expected a 3-D image"),
        (put("8h", 40, 3, 30000, 30000, 30000, 1, 1, 1, 1), r"truncated .*30000x30000x30000 voxels of float32"),
        (put("8h", 40, 3, 6, 7, 6, 1, 1, 1, 1), r"truncated .*header says 1360 bytes .*it has 1192"),
        (put("8h", 40, 3, 6, 7, 4, 1, 1, 1, 1), r"more bytes than its header says \(1024: 6x7x4 voxels"),
        (put("h", 70, 99), "unknown datatype code 99"),
        (put("h", 70, 0), "unknown datatype code 0"),
        (put("h", 70, 1), "its voxels are binary"),
        (put("h", 70, 32), "its voxels are complex64"),
        (put("h", 70, 1792), "its voxels are complex128"),
        (put("h", 70, 128), "its voxels are RGB"),
        (put("h", 70, 2304), "its voxels are RGBA"),
        (put("ff", 112, 2, float("nan")), "scl_slope 2 and scl_inter nan, expected finite"),
        (put("ff", 112, 2, float("-inf")), "scl_slope 2 and scl_inter -inf, expected finite"),
        (put("ff", 112, float("inf"), 0), "scl_slope inf"),
        (put("ff", 112, float("nan"), 0), "scl_slope nan"),
        (put("f", 108, 0), "vox_offset 0, expected a whole number from 352 on"),
        (put("f", 108, float("nan")), "vox_offset nan"),
        (put("12f", 280, *[0] * 12), r"a sform \(code 1\) that gives voxels no place.*set sform_code to 0"),
        (put("12f", 280, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 1, 0), r"a sform \(code 1\) that gives voxels no place"),
        (put("f", 280, float("nan")), r"a sform \(code 1\) that gives voxels no place: nan"),
        (put("f", 292, float("inf")), r"a sform \(code 1\) that gives voxels no place"),
        (only_qform(put("3f", 256, 0.7, 0.6, 0.6)), "quaternion 0.7, 0.6, 0.6 has the squared length 1.21"),
        (only_qform(put("3f", 256, float("nan"), 0, 0)), "quaternion nan, 0, 0"),
        (only_qform(put("f", 268, float("nan"))), r"a qform \(code 1\) that gives voxels no place"),
        (put("3f", 80, 1, 0, 3), "voxel sizes pixdim 1, 0, 3, expected positive"),
        (put("3f", 80, 1, -2, 3), "voxel sizes pixdim 1, -2, 3, expected positive"),
        (put("3f", 80, 1, float("nan"), 3), "voxel sizes pixdim 1, nan, 3, expected positive"),
        (put("hh", 252, 1, 77), "qform_code 1 and sform_code 77, expected codes from 0 to 5"),
        (put("b", 123, 3), "xyzt_units 3, which count in micrometres"),
        (put("b", 123, 1), "xyzt_units 1, which count in metres"),
        (put("4s", 344, b"ni1\0"), r"the magic of a pair \.hdr and \.img"),
        (put("4s", 344, b"abcd"), "truncated or not an image"),
        (put("i", 0, 349), "truncated or not an image"),
    ],
)
def test_a_field_that_cannot_be_used_is_named_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], spoil: Callable[[Bytes], None], words: str
) -> None:
    raw = content()
    spoil(raw)
    for name in ("x.nii", "x.nii.gz"):
        with pytest.raises(VolumeError, match=rf"{name}: .*{words}".replace(".nii", r"\.nii")) as caught:
            load_volume(write(tmp_path / name, raw))
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 65
    assert capfd.readouterr() == ("", "")  # nibabel's own remarks are not what a user reads


def flipped_bit(packed: Bytes) -> None:
    packed[packed.index(content()[352:400]) + 5] ^= 1


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (flipped_bit, r"damaged: the checksum \(CRC\) of its content is wrong"),
        (lambda packed: packed.extend(b"more"), "damaged: something that is not gzip follows"),
        (lambda packed: packed.__delitem__(slice(-9, None)), "truncated"),
        (lambda packed: packed.__delitem__(slice(-3, None)), "truncated"),
        (lambda packed: packed.__delitem__(slice(len(packed) // 2, None)), "truncated"),
        (lambda packed: packed.__setitem__(slice(-4, None), b"\1\0\0\0"), "damaged: .*Incorrect length"),
        (lambda packed: packed.__setitem__(10, 0x07), "damaged: its compressed data cannot be unpacked"),
    ],
)
def test_a_damaged_archive_is_refused(tmp_path: Path, spoil: Callable[[Bytes], None], words: str) -> None:
    packed = Bytes(gzip.compress(bytes(content()), compresslevel=0))  # stored: its bytes can be found
    spoil(packed)
    (tmp_path / "x.nii.gz").write_bytes(packed)
    with pytest.raises(VolumeError, match=rf"x\.nii\.gz: {words}"):
        load_volume(tmp_path / "x.nii.gz")


def test_no_flipped_bit_of_an_archive_changes_a_voxel(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.float32)
    packed = gzip.compress(bytes(content(data)), mtime=0)
    path = tmp_path / "x.nii.gz"
    path.write_bytes(packed)
    whole = load_volume(path).data
    refused = 0
    for place in range(len(packed)):
        spoilt = Bytes(packed)
        spoilt[place] ^= 1 << place % 8
        path.write_bytes(spoilt)
        try:
            assert np.array_equal(load_volume(path).data, whole), place
        except VolumeError:
            refused += 1
    assert len(packed) - refused <= 10  # flags, time, level and system in the archive's own header say nothing of it


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("B"), st.integers(0, 347), st.integers(0, 255)),
            st.tuples(st.just("<h"), st.integers(0, 346), st.sampled_from([0, 1, -1, 2, 4, 5, 99, 512, -32768, 32767])),
            st.tuples(
                st.just("<f"),
                st.integers(0, 86).map(lambda field: 4 * field),
                st.sampled_from([0.0, -1.0, 2.0, 1e30, float("nan"), float("inf")]),
            ),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_any_header_is_refused_in_one_line_or_read_as_nibabel_reads_it(changes: list[tuple[str, int, float]]) -> None:
    raw = content()
    for form, at, value in changes:
        struct.pack_into(form, raw, at, value)
    with TemporaryDirectory() as folder:
        path = write(Path(folder) / "x.nii", raw)
        refusal = None
        try:
            ours = load_volume(path)
        except VolumeError as error:
            refusal = str(error)
        if refusal is not None:
            assert "\n" not in refusal
            return
        theirs = nib.nifti1.load(path)
        assert np.allclose(ours.grid.affine, theirs.affine, rtol=1e-4, atol=1e-4)
        save_volume(Path(folder) / "out.nii", ours.data, ours.grid)
        written = nib.nifti1.load(Path(folder) / "out.nii")
        assert np.allclose(written.affine, theirs.affine, rtol=1e-4, atol=1e-4)
        assert np.array_equal(
            np.asarray(written.dataobj), np.asarray(theirs.dataobj, np.float32).reshape(ours.grid.shape)
        )


def test_an_archive_of_several_members_is_one_file(tmp_path: Path) -> None:
    raw = bytes(content())
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(raw[:400]) + gzip.compress(raw[400:]) + b"\0\0\0")  # and padding
    assert np.array_equal(load_volume(tmp_path / "x.nii.gz").data, load_volume(write(tmp_path / "y.nii", raw)).data)


def test_a_name_that_says_otherwise_than_the_content_is_answered_with_the_right_one(tmp_path: Path) -> None:
    (tmp_path / "x.nii.gz").write_bytes(content())
    with pytest.raises(VolumeError, match=r"x\.nii\.gz: not compressed with gzip.*rename it to \.nii"):
        load_volume(tmp_path / "x.nii.gz")
    (tmp_path / "y.nii").write_bytes(gzip.compress(bytes(content())))
    with pytest.raises(VolumeError, match=r"y\.nii: compressed with gzip.*rename it to \.nii\.gz"):
        load_volume(tmp_path / "y.nii")


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.float32, np.float64])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("image", [nib.Nifti1Image, nib.Nifti2Image])
def test_every_type_and_byte_order_is_read_as_nibabel_reads_it(
    tmp_path: Path, kind: Any, order: str, image: Any
) -> None:
    data = (np.random.default_rng(1).random(SHAPE) * 100).astype(kind)
    header = image.header_class(endianness=order)
    header.set_data_dtype(np.dtype(kind))
    header.set_slope_inter(0.5, -3)
    made = image(data, turned(20), header)
    made.header.set_slope_inter(0.5, -3)
    path = tmp_path / "x.nii.gz"
    made.to_filename(path)
    theirs = image.from_filename(path)
    ours = load_volume(path)
    assert np.array_equal(ours.data, np.asarray(nib.as_closest_canonical(theirs).dataobj, np.float32))
    assert np.array_equal(ours.grid.affine, theirs.affine)


@pytest.mark.parametrize("codes", [(1, 1), (1, 0), (0, 2), (4, 4), (1, 4), (0, 0)])
@pytest.mark.parametrize("units", [0, 2, 10, 18])
def test_a_map_has_both_forms_codes_and_units_of_its_scan(tmp_path: Path, codes: tuple[int, int], units: int) -> None:
    image = nib.Nifti1Image(np.ones(SHAPE, np.float32), turned(20))
    image.set_qform(turned(33), codes[0])  # the scanner's
    image.set_sform(turned(20), codes[1])  # aligned by another program
    raw = Bytes(image.to_bytes())
    put("hhb", 252, *codes, 0)(raw)  # nibabel itself writes 0 for the whole form where its code is 0
    put("b", 123, units)(raw)
    scan = load_volume(write(tmp_path / "in.nii", raw))
    save_volume(tmp_path / "out.nii.gz", scan.data > 0, scan.grid)
    theirs, ours = nib.nifti1.load(tmp_path / "in.nii"), nib.nifti1.load(tmp_path / "out.nii.gz")
    for name in FORM_FIELDS:
        assert np.array_equal(theirs.header[name], ours.header[name]), name
    assert np.array_equal(theirs.header["pixdim"][:4], ours.header["pixdim"][:4])
    assert np.array_equal(theirs.affine, ours.affine)
    assert np.allclose(scan.grid.affine, theirs.affine, atol=1e-6)  # nibabel computes a qform in float32


def test_a_quaternion_that_rounding_made_too_long_is_taken(tmp_path: Path) -> None:
    raw = content(codes=(1, 0))
    put("6f", 256, 0.0, 0.707107, 0.707108, 0.0, 0.0, 0.0)(raw)  # squared length 1 + 2e-6; nibabel refuses it
    grid = load_grid(write(tmp_path / "x.nii", raw))
    # Half a turn about (0, 1, 1): x is reversed, y and z change places. By hand, sizes 1, 2, 3, qfac -1.
    assert np.allclose(grid.affine[:3, :3], [[-1, 0, 0], [0, 0, -3], [0, 2, 0]], atol=1e-5)


@pytest.mark.real
def test_real_scans_are_read_and_written_as_nibabel_has_them(real_data: Path, tmp_path: Path) -> None:
    paths = [*real_data.glob("ms-raw/*.nii.gz"), *real_data.glob("ms-tiny/**/*.nii.gz")]
    paths += [*real_data.glob("ms/**/*FLAIR.nii.gz"), *real_data.glob("ms/**/*mask.nii.gz")]
    assert len(paths) == 16
    for path in paths:
        theirs = nib.nifti1.load(path)
        ours = load_volume(path)
        assert np.array_equal(ours.data, np.asarray(nib.as_closest_canonical(theirs).dataobj, np.float32)), path
        assert np.array_equal(ours.grid.affine, theirs.affine)
        save_volume(tmp_path / "out.nii", ours.data, ours.grid)
        written = nib.nifti1.load(tmp_path / "out.nii")
        assert np.array_equal(np.asarray(written.dataobj), np.asarray(theirs.dataobj, np.float32))
        for name in FORM_FIELDS:
            assert np.array_equal(theirs.header[name], written.header[name]), (path, name)
