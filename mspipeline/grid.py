"""The grid of a scan, what leads from one to another, and whether two are one: orientation, offset, tolerance."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nibabel import orientations

TransformChain = tuple[tuple[Path, bool], ...]
"""Files of transforms that lead a point from one grid's space to another's, in order; True: through the inverse."""

Orientation = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""For each axis of a file the canonical axis that it becomes, and 1, or -1 where it is flipped."""

GRID_TOLERANCE_VOX = 0.1
"""Grids whose corners lie no further apart than this are one: headers store float32 and tools write an affine in other
parametrisations. It is a fifth of what could make another voxel the nearest one."""
TIE = 1e-5
"""Orientations whose fit to the axes of the world differs by less are equally close: rounding to float32 is 1e-7."""


@dataclass(frozen=True)
class Forms:
    """Where a NIfTI file says that its voxels lie, as its fields have it: enough to say the same in another file.

    pixdim: (4,) qfac and the voxel sizes. qform: (6,) quatern_b to d, qoffset_x to z. sform: (12,) srow_x, _y, _z.
    Codes and xyzt_units: NIfTI's numbers. A form whose code is 0 is not used; its fields are kept all the same.
    """

    pixdim: tuple[float, ...]
    qform: tuple[float, ...]
    sform: tuple[float, ...]
    qform_code: int
    sform_code: int
    xyzt_units: int


@dataclass(frozen=True)
class ScanGrid:
    """The grid of a scan as its file has it: enough to write a result that overlaps it voxel by voxel.

    shape: (I, J, K) of the file. affine: (4, 4), voxel to world mm (RAS+). qform_code, sform_code: NIfTI codes.
    forms: both forms as the file has them; None of a grid that comes from no file: both are then the affine.
    orientation: of the file's axes; None for the closest to the world's.
    """

    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]
    qform_code: int
    sform_code: int
    forms: Forms | None = None
    orientation: Orientation | None = None

    @cached_property
    def to_canonical(self) -> npt.NDArray[np.float64]:
        """(3, 2) orientation transform of nibabel: for each file axis, its canonical axis and its sign."""
        return np.array(self.orientation or closest_orientation(self.affine), float)

    @property
    def canonical_shape(self) -> tuple[int, int, int]:
        """(X, Y, Z) in canonical orientation."""
        return turned_shape(self.shape, self.to_canonical)

    @cached_property
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

    @property
    def is_placed(self) -> bool:
        """Whether the file says where its voxels lie; without a form, left and right are a convention."""
        return self.qform_code > 0 or self.sform_code > 0

    def turn_onto(self, other: ScanGrid) -> npt.NDArray[np.float64] | None:
        """(3, 2), how this file's axes are turned so that its voxels are those of `other`, in canonical orientation.

        None where no turn and flip of axes makes the grids one, within GRID_TOLERANCE_VOX. Two files of one grid get
        the same orientation by it, which each by itself would not where the scan is turned by 45 degrees.
        """
        turn = _axes_of(np.linalg.inv(other.affine_ras[:3, :3]) @ self.affine[:3, :3])
        if turn is None or turned_shape(self.shape, turn) != other.canonical_shape:
            return None
        affine = self.affine @ orientations.inv_ornt_aff(turn, self.shape)
        return turn if _apart(affine, other)[1] <= GRID_TOLERANCE_VOX else None

    def same_as(self, other: ScanGrid) -> bool:
        """Whether two scans share one canonical grid: equal shapes, corners within GRID_TOLERANCE_VOX."""
        if self.canonical_shape != other.canonical_shape:
            return False
        return _apart(self.affine_ras, other)[1] <= GRID_TOLERANCE_VOX

    def offset_mm(self, other: ScanGrid) -> float | None:
        """How far apart the corners of two grids lie at most; None where their shapes differ, however turned."""
        turn = _axes_of(np.linalg.inv(other.affine_ras[:3, :3]) @ self.affine[:3, :3])
        if turn is None or turned_shape(self.shape, turn) != other.canonical_shape:
            turn = self.to_canonical
        if turned_shape(self.shape, turn) != other.canonical_shape:
            return None
        return _apart(self.affine @ orientations.inv_ornt_aff(turn, self.shape), other)[0]

    def describe(self) -> str:
        """One phrase for messages: shape, spacing, orientation."""
        axes = "".join(orientations.ornt2axcodes(self.to_canonical))
        spacing = "x".join(f"{size:.3g}" for size in np.linalg.norm(self.affine[:3, :3], axis=0))
        return f"{'x'.join(map(str, self.shape))} voxels of {spacing} mm, {axes}"

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads back, without the forms: nothing is written from a stored grid."""
        return {
            "shape": list(self.shape),
            "affine": self.affine.tolist(),
            "qform_code": self.qform_code,
            "sform_code": self.sform_code,
            "orientation": self.to_canonical.astype(int).tolist(),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> ScanGrid:
        """The grid that `to_json` described. One without an orientation is of a version that took nibabel's."""
        i, j, k = document["shape"]
        affine = np.array(document["affine"], float)
        return cls(
            (i, j, k),
            affine,
            document["qform_code"],
            document["sform_code"],
            orientation=_orientation(document.get("orientation") or orientations.io_orientation(affine)),
        )


def apart(first: ScanGrid, second: ScanGrid) -> str:
    """By how much the second grid differs from the first, as a phrase for messages: shapes, or millimetres."""
    offset = second.offset_mm(first)
    return "of other shapes" if offset is None else f"up to {offset:.3g} mm apart"


def closest_orientation(affine: npt.NDArray[np.float64]) -> Orientation:
    """The turn and flips of a file's axes that bring them closest to R, A, S: the largest sum of cosines.

    Where several are equally close (45 degrees), the one is taken whose turned axes are rotated from the world's about
    a fixed direction: that depends on where the axes lie and not on the order in which the file stores them.
    Raises LinAlgError for an affine that is not finite.
    """
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(axes)
    rotation = left @ right  # the closest matrix without shear (polar decomposition)
    found: list[tuple[float, float, Orientation]] = []
    for order in itertools.permutations(range(3)):
        cosines = np.array([rotation[target, axis] for axis, target in enumerate(order)])
        signs = np.where(cosines < 0, -1, 1)
        turned = np.empty((3, 3))
        turned[:, order] = rotation * signs
        about = np.array([turned[2, 1] - turned[1, 2], turned[0, 2] - turned[2, 0], turned[1, 0] - turned[0, 1]])
        chosen = _orientation(np.stack([order, signs], axis=1))
        found.append((float(np.abs(cosines).sum()), float(about @ (1.0, 1.7, 2.9)), chosen))
    closest = max(fit for fit, _, _ in found)
    return max((about, orientation) for fit, about, orientation in found if fit > closest - TIE)[1]


def turned_shape(shape: tuple[int, int, int], turn: npt.NDArray[np.float64]) -> tuple[int, int, int]:
    """A file's shape once its axes are turned."""
    turned = [0, 0, 0]
    for axis, (target, _) in enumerate(turn):
        turned[int(target)] = shape[axis]
    return (turned[0], turned[1], turned[2])


def _orientation(rows: Any) -> Orientation:
    first, second, third = ((int(target), int(sign)) for target, sign in rows)
    return (first, second, third)


def _axes_of(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
    """(3, 2) the turn of axes that a matrix is nearly; None where it is none."""
    nearest = np.round(matrix)
    targets = np.argmax(np.abs(nearest), axis=0)
    if sorted(targets) != [0, 1, 2] or not (np.abs(nearest).sum(axis=0) == 1).all():
        return None
    turn: npt.NDArray[np.float64] = np.stack([targets, nearest[targets, range(3)]], axis=1)
    return turn


def _apart(affine_ras: npt.NDArray[np.float64], grid: ScanGrid) -> tuple[float, float]:
    """How far the corners of a grid with this affine lie from those of `grid`, at most: in mm, in voxels of an axis."""
    corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
    corners[:, :3] *= np.array(grid.canonical_shape) - 1
    apart_mm = (corners @ (affine_ras - grid.affine_ras).T)[:, :3]
    apart_vox = apart_mm @ np.linalg.inv(grid.affine_ras[:3, :3]).T
    return float(np.linalg.norm(apart_mm, axis=1).max()), float(np.abs(apart_vox).max())
