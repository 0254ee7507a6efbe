"""The header of a NIfTI-1 or NIfTI-2 file, checked field by field: a bad one is refused by the name of its field.

Fields: nifti1.h (Cox et al. 2004).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.quaternions import quat2mat

from mspipeline.errors import VolumeError
from mspipeline.grid import Forms

QUATERNION_SLACK = 1e-4
"""A quaternion's squared length may be above 1 by this much: parameters that were rounded to four or more decimals."""
UNITS = {1: "metres", 3: "micrometres"}


@dataclass(frozen=True)
class Header:
    """shape: (I, J, K). affine: (4, 4), voxel to world mm (RAS+): the sform, else the qform, else about the centre.

    dtype: of the stored voxels, with its byte order. offset: of the first voxel in the (uncompressed) file.
    slope, intercept: value = slope * stored + intercept.
    """

    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]
    forms: Forms
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float

    @property
    def file_bytes(self) -> int:
        """Bytes that the uncompressed file must have."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize


def parse_header(path: Path, start: bytes) -> Header:
    """The header at the start of a file's uncompressed content. Raises VolumeError where a field cannot be used."""
    fields = _fields(path, start)
    forms = _forms(path, fields)
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if not math.isfinite(slope) or (slope != 0 and not math.isfinite(intercept)):
        raise _field(
            path, f"scl_slope {slope:g} and scl_inter {intercept:g}", "finite numbers, or a slope of 0 for none"
        )
    shape = _shape(path, fields)
    offset = float(fields["vox_offset"])
    smallest = 544 if int(fields["sizeof_hdr"]) == 540 else 352
    if not math.isfinite(offset) or offset < smallest or offset != int(offset):
        raise _field(path, f"vox_offset {offset:g}", f"a whole number from {smallest} on")
    return Header(
        shape,
        _affine(path, shape, forms),
        forms,
        _dtype(path, fields),
        int(offset),
        slope or 1.0,
        intercept if slope else 0.0,
    )


def _field(path: Path, found: str, expected: str) -> VolumeError:
    return VolumeError(f"{path}: its NIfTI header has {found}, expected {expected}; correct or convert the image")


def _fields(path: Path, start: bytes) -> Any:
    """The header's fields as a structured array, in native byte order."""
    for order in ("<", ">"):
        for kind, size, magics in (
            (nib.Nifti1Header, 348, (b"n+1\0", b"ni1\0")),
            (nib.Nifti2Header, 540, (b"n+2\0", b"ni2\0")),
        ):
            if len(start) < size or int.from_bytes(start[:4], "little" if order == "<" else "big") != size:
                continue
            fields = kind(start[:size], endianness=order, check=False).structarr  # type: ignore[no-untyped-call]
            magic = start[344:348] if size == 348 else start[4:8]
            if magic == magics[1]:
                raise _field(path, "the magic of a pair .hdr and .img", "an image in one file, .nii or .nii.gz")
            if magic == magics[0]:
                return fields
    raise VolumeError(
        f"{path}: truncated or not an image ({len(start) or 'no'} bytes without a NIfTI header at their beginning); "
        "copy or convert it again"
    )


def _shape(path: Path, fields: Any) -> tuple[int, int, int]:
    axes = int(fields["dim"][0])
    if not 1 <= axes <= 7:
        raise _field(path, f"dim[0] {axes}", "1 to 7 axes")
    shape = tuple(int(size) for size in fields["dim"][1 : axes + 1])
    if min(shape) < 1:
        raise _field(path, f"dimensions {shape}", "positive numbers of voxels")
    if len(shape) < 3 or any(size > 1 for size in shape[3:]):
        raise VolumeError(f"{path}: has {len(shape)} axes {shape}, expected a 3-D image; extract one volume from it")
    return (shape[0], shape[1], shape[2])  # (X, Y, Z, 1): one volume, as some scanners' converters write it


def _dtype(path: Path, fields: Any) -> np.dtype[Any]:
    code = int(fields["datatype"])
    known: Any = nib.nifti1.data_type_codes
    if code not in known.value_set("code") or code == 0:
        raise _field(path, f"the unknown datatype code {code}", "whole or real numbers, such as 16 (float32)")
    dtype: np.dtype[Any] = np.dtype(known.dtype[code])
    if dtype.kind not in "iuf" or not dtype.itemsize:
        what = known.label[code]
        raise VolumeError(
            f"{path}: its voxels are {what}, expected one whole or real number each; "
            "save one channel (or the magnitude) as an image of its own"
        )
    stored: np.dtype[Any] = dtype.newbyteorder(fields.dtype["datatype"].byteorder)
    return stored


def _forms(path: Path, fields: Any) -> Forms:
    """The fields of the geometry. Raises VolumeError where codes, units or voxel sizes mean nothing."""
    codes = int(fields["qform_code"]), int(fields["sform_code"])
    if not all(0 <= code <= 5 for code in codes):
        raise _field(path, f"qform_code {codes[0]} and sform_code {codes[1]}", "codes from 0 to 5")
    units = int(fields["xyzt_units"])
    if (spatial := units & 7) in UNITS:
        raise _field(path, f"xyzt_units {units}, which count in {UNITS[spatial]}", "millimetres (2)")
    qfac, *sizes = (float(size) for size in fields["pixdim"][:4])
    if not all(math.isfinite(size) and size > 0 for size in sizes):
        raise _field(path, f"voxel sizes pixdim {', '.join(f'{size:g}' for size in sizes)}", "positive sizes in mm")
    qform = tuple(
        float(fields[name]) for name in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
    )
    sform = tuple(float(value) for name in ("srow_x", "srow_y", "srow_z") for value in fields[name])
    # nifti1.h: a qfac that is neither is taken for 1.
    return Forms((-1.0 if qfac == -1 else 1.0, *sizes), qform, sform, *codes, units)


def _affine(path: Path, shape: tuple[int, int, int], forms: Forms) -> npt.NDArray[np.float64]:
    affine = np.eye(4)
    if forms.sform_code:
        affine[:3] = np.array(forms.sform).reshape(3, 4)
        name = f"sform (code {forms.sform_code})"
    elif forms.qform_code:
        affine = _of_qform(path, forms)
        name = f"qform (code {forms.qform_code})"
    else:
        sizes = np.array(forms.pixdim[1:]) * (-1, 1, 1)  # as nibabel and SPM have it: the first axis runs to the left
        affine[:3, :3] = np.diag(sizes)
        affine[:3, 3] = -sizes * (np.array(shape) - 1) / 2
        return affine
    axes = affine[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if not np.isfinite(affine).all() or lengths.min() == 0 or abs(np.linalg.det(axes / lengths)) < 1e-3:
        found = "; ".join(" ".join(f"{value:g}" for value in row) for row in affine[:3])
        other = " (its qform may be meant: then set sform_code to 0)" if forms.sform_code and forms.qform_code else ""
        raise VolumeError(
            f"{path}: its NIfTI header has a {name} that gives voxels no place: {found}, expected three axes that "
            f"span space{other}; correct or convert the image"
        )
    return affine


def _of_qform(path: Path, forms: Forms) -> npt.NDArray[np.float64]:
    """The qform's matrix. A quaternion that rounding has made slightly too long is brought to length 1."""
    b, c, d = forms.qform[:3]
    length = b * b + c * c + d * d
    if not length <= 1 + QUATERNION_SLACK:
        raise _field(
            path,
            f"a qform (code {forms.qform_code}) whose quaternion {b:g}, {c:g}, {d:g} has the squared length "
            f"{length:.6g}",
            "at most 1",
        )
    affine = np.eye(4)
    affine[:3, :3] = quat2mat((math.sqrt(max(0.0, 1 - length)), b, c, d)) * forms.pixdim[1:]
    affine[:3, 2] *= forms.pixdim[0]
    affine[:3, 3] = forms.qform[3:]
    return affine
