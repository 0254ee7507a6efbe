"""Volume: one 3-D image in canonical orientation, with the way back to the grid it came from.

Canonical is RAS+: axis 0 runs to the patient's right, axis 1 to anterior, axis 2 to superior. Only axes are swapped and
flipped on the way in, never interpolated, so the way back is exact.
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel import orientations
from nibabel.filebasedimages import ImageFileError

from mspipeline.errors import ShapeError, VolumeError
from mspipeline.files import write_bytes

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

GRID_TOLERANCE_MM = 1e-2
"""Corners of two grids nearer than this are the same grid: headers store float32, some tools round to 1e-3 mm."""


@dataclass(frozen=True)
class ScanGrid:
    """The grid of a scan as its file has it: enough to write a result that overlaps it voxel by voxel.

    shape: (I, J, K) of the file. affine: (4, 4), voxel to world mm (RAS+). qform_code, sform_code: NIfTI codes.
    zooms_mm: voxel sizes of the file's axes.
    """

    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]
    qform_code: int
    sform_code: int

    @property
    def to_canonical(self) -> npt.NDArray[np.float64]:
        """(3, 2) orientation transform of nibabel: for each file axis, its canonical axis and its sign."""
        transform: npt.NDArray[np.float64] = orientations.io_orientation(self.affine)
        return transform

    @property
    def canonical_shape(self) -> tuple[int, int, int]:
        """(X, Y, Z) in canonical orientation."""
        shape = [0, 0, 0]
        for axis, (target, _) in enumerate(self.to_canonical):
            shape[int(target)] = self.shape[axis]
        return (shape[0], shape[1], shape[2])

    @property
    def affine_ras(self) -> npt.NDArray[np.float64]:
        """(4, 4), canonical voxel to world mm."""
        affine: npt.NDArray[np.float64] = self.affine @ orientations.inv_ornt_aff(self.to_canonical, self.shape)
        return affine

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel sizes along the canonical axes."""
        x, y, z = np.linalg.norm(self.affine_ras[:3, :3], axis=0)
        return (float(x), float(y), float(z))

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    def same_as(self, other: ScanGrid) -> bool:
        """Whether two scans share one grid: equal shapes, corners within GRID_TOLERANCE_MM."""
        if self.shape != other.shape:
            return False
        corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
        corners[:, :3] *= np.array(self.shape) - 1
        return bool(np.abs(corners @ (self.affine - other.affine).T).max() <= GRID_TOLERANCE_MM)

    def describe(self) -> str:
        """One phrase for messages: shape, spacing, orientation."""
        axes = "".join(nib.aff2axcodes(self.affine))
        spacing = "x".join(f"{size:.3g}" for size in np.linalg.norm(self.affine[:3, :3], axis=0))
        return f"{'x'.join(map(str, self.shape))} voxels of {spacing} mm, {axes}"

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads back."""
        return {
            "shape": list(self.shape),
            "affine": self.affine.tolist(),
            "qform_code": self.qform_code,
            "sform_code": self.sform_code,
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> ScanGrid:
        """The grid that `to_json` described."""
        i, j, k = document["shape"]
        return cls((i, j, k), np.array(document["affine"], float), document["qform_code"], document["sform_code"])


@dataclass(frozen=True)
class Volume:
    """data: (X, Y, Z) in canonical orientation; grid: that of the file it came from."""

    data: npt.NDArray[Any]
    grid: ScanGrid


def load_grid(path: Path) -> ScanGrid:
    """The grid of a NIfTI image; only its header is read. Raises VolumeError as `load_volume` does for the header."""
    return _grid(path, _open(path))


def load_volume(path: Path) -> Volume:
    """Read a NIfTI image as float32 in canonical orientation.

    Raises VolumeError where the file is missing, truncated, not an image, not 3-D, or holds NaN or infinity.
    """
    image = _open(path)
    grid = _grid(path, image)
    try:
        data = np.asarray(image.dataobj, dtype=np.float32).reshape(grid.shape)
    except FileNotFoundError:
        raise VolumeError(f"{path}: no such image") from None
    except (EOFError, zlib.error, gzip.BadGzipFile, OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not np.isfinite(data).all():
        count = int(np.size(data) - np.isfinite(data).sum())
        raise VolumeError(f"{path}: {count} voxels are NaN or infinite, expected finite numbers; repair the image")
    return Volume(orientations.apply_orientation(data, grid.to_canonical), grid)


def _unreadable(path: Path, error: Exception) -> VolumeError:
    reason = " ".join(str(error).split())  # some of nibabel's messages have two lines
    return VolumeError(f"{path}: truncated or not an image ({reason}); copy or convert it again")


def _open(path: Path) -> Any:
    """The nibabel image, its voxels not yet read."""
    try:
        return nib.load(path)
    except FileNotFoundError:
        raise VolumeError(f"{path}: no such image") from None
    except (ImageFileError, EOFError, zlib.error, gzip.BadGzipFile, OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _grid(path: Path, image: Any) -> ScanGrid:
    """The grid in an opened image's header. Raises VolumeError where it is not 3-D."""
    shape = image.shape
    if len(shape) == 4 and shape[3] == 1:
        shape = shape[:3]  # (X, Y, Z, 1): one volume, as some scanners' converters write it
    if len(shape) != 3:
        raise VolumeError(
            f"{path}: has {len(shape)} axes {tuple(shape)}, expected a 3-D image; extract one volume from it"
        )
    header = image.header
    return ScanGrid(
        (shape[0], shape[1], shape[2]),
        np.array(image.affine, float),
        int(header["qform_code"]) if "qform_code" in header else 0,
        int(header["sform_code"]) if "sform_code" in header else 2,
    )


def load_mask(path: Path, *, threshold: float | None = None) -> Volume:
    """Read a binary mask as bool in canonical orientation.

    threshold: where given, voxels above it are in the mask; else the image must hold 0 and 1 only. Empty is legal.
    Raises VolumeError as `load_volume`, and where the mask is not binary.
    """
    volume = load_volume(path)
    if threshold is not None:
        return Volume(volume.data > threshold, volume.grid)
    mask = volume.data == 1
    if not (mask | (volume.data == 0)).all():
        values = np.unique(volume.data)
        shown = ", ".join(f"{value:g}" for value in values[:5]) + (", ..." if len(values) > 5 else "")
        raise VolumeError(
            f"{path}: not a binary mask: holds {len(values)} values ({shown}), expected 0 and 1; "
            "set `mask_threshold` in the recipe if voxels above a value are meant"
        )
    return Volume(mask, volume.grid)


def to_scan_grid(data: npt.NDArray[Any], grid: ScanGrid) -> npt.NDArray[Any]:
    """(X, Y, Z) canonical -> (I, J, K) as the scan's file has it. Raises ShapeError where the shape is another."""
    if data.shape != grid.canonical_shape:
        raise ShapeError(f"volume of shape {data.shape} does not fit the scan's canonical grid {grid.canonical_shape}")
    canonical = np.array([[0, 1], [1, 1], [2, 1]])
    back = orientations.ornt_transform(canonical, grid.to_canonical)
    return np.ascontiguousarray(orientations.apply_orientation(data, back))


def save_volume(path: Path, data: npt.NDArray[Any], grid: ScanGrid) -> None:
    """Write a canonical volume as NIfTI on the grid of the scan it belongs to: shape, affine and codes kept.

    data: (X, Y, Z) bool (stored as uint8) or float32. Equal data gives equal bytes. Raises StorageError.
    """
    on_scan = to_scan_grid(data.astype(np.uint8) if data.dtype == bool else data, grid)
    image = nib.Nifti1Image(on_scan, grid.affine)
    image.set_qform(grid.affine, grid.qform_code)
    image.set_sform(grid.affine, grid.sform_code)
    image.header.set_xyzt_units("mm")
    content = image.to_bytes()
    write_bytes(path, gzip.compress(content, compresslevel=6, mtime=0) if path.suffix == ".gz" else content)
