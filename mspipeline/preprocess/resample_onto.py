"""The files of one case on one grid: that of the modality a recipe names, by headers or by transforms beside the files.

A file that lies on the reference's grid is taken as it is, with every value, and oriented as the reference. Any other
is interpolated once, from its own grid: scans linearly, masks by the nearest voxel; what lies outside its field of view
is 0. Where a chain of transforms leads to the file, points go through it; where none does, world coordinates of the
headers are taken to mean the same place, unless the file's name declares a space of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mspipeline.errors import DatasetError
from mspipeline.grid import TransformChain, apart
from mspipeline.labels import LabelSet
from mspipeline.preprocess.itk import Affine, read_affine
from mspipeline.preprocess.lesion_counts import KEPT_MIN, Placing, inside, label, placing, require_most
from mspipeline.volume import ScanGrid, Volume, load_grid, load_labels, load_mask, load_volume

SHARED_MIN = 0.5
"""Share of their fields of view that two scans of a case must have in common: below it, one of the headers is wrong."""
TOLD_MM = 0.01
"""A difference between two grids that is worth a word: below it lies what headers round away."""
PROBES = 24
"""Places on each axis at which fields of view are compared."""


@dataclass(frozen=True)
class CaseReader:
    """Reads the files of one case.

    grid: of the reference; None reads each file as it is. chains: modality, "brain" or "lesions" -> transforms.
    reference: the file of that grid, for error lines. resample: whether a file on another grid is put onto it, or
    refused. strays: file -> the space its name declares, where nothing leads there from the reference's.
    """

    grid: ScanGrid | None = None
    chains: Mapping[str, TransformChain] = field(default_factory=dict)
    reference: str = "the reference"
    resample: bool = True
    strays: Mapping[str, str] = field(default_factory=dict)

    def volume(self, name: str, path: Path) -> Volume:
        """A scan. Raises as `load_volume`, `require_place` and `read_affine`."""
        volume = load_volume(path, like=self.grid)
        if self.grid is None or volume.grid is self.grid:
            return volume
        self.require_place(name, path, volume.grid)
        to_voxels = self._to_voxels(name, volume.grid)
        return Volume(_transformed(volume.data, to_voxels, self.grid, order=1, mode="constant"), self.grid)

    def mask(self, name: str, path: Path, *, threshold: float | None = None) -> Volume:
        """A mask, bool. Raises as `load_mask`, `require_place`, `read_affine`, and where most of it is lost."""
        return self.placed_mask(name, path, threshold=threshold)[0]

    def placed_mask(self, name: str, path: Path, *, threshold: float | None = None) -> tuple[Volume, Placing | None]:
        """The same, and what became of its lesions on the way; None where it lies on the reference's grid."""
        remedy = None if name == "lesions" else "save it again with 0 outside and 1 inside"
        mask = load_mask(path, threshold=threshold, like=self.grid, remedy=remedy)
        if self.grid is None or mask.grid is self.grid:
            return mask, None
        self.require_place(name, path, mask.grid)
        to_voxels = self._to_voxels(name, mask.grid)
        labels = label(mask.data)
        # grid-constant: a voxel is a box, and its outer half belongs to the field of view.
        moved = _transformed(labels, to_voxels, self.grid, order=0, mode="grid-constant")
        found = placing(labels, mask.grid.voxel_ml, moved, self.grid.voxel_ml, np.linalg.inv(to_voxels))
        require_most(f"{path}: on the grid of {self.reference}", found, remedy=_of_most(name))
        return Volume(moved > 0, self.grid), found

    def labels(self, name: str, path: Path, labels: LabelSet) -> Volume:
        """A label map, uint8; on another grid, the label of the nearest voxel, background outside its field of view.

        Raises as `load_labels`, `require_place`, `read_affine`, and where less than half of the labels' volume is left.
        """
        found = load_labels(path, labels, like=self.grid)
        if self.grid is None or found.grid is self.grid:
            return found
        self.require_place(name, path, found.grid)
        to_voxels = self._to_voxels(name, found.grid)
        moved = _transformed(found.data, to_voxels, self.grid, order=0, mode="grid-constant")
        before_ml, after_ml = (
            np.count_nonzero(data) * grid.voxel_ml for data, grid in ((found.data, found.grid), (moved, self.grid))
        )
        if after_ml < KEPT_MIN * before_ml:
            raise DatasetError(
                f"{path}: {before_ml:.3g} ml that have a label become {after_ml:.3g} ml on the grid of "
                f"{self.reference}, expected at least {KEPT_MIN:.0%} to be kept; {_of_most(name)}"
            )
        return Volume(moved, self.grid)

    def resampled_by(self, name: str, own: ScanGrid) -> str | None:
        """How a file with the grid `own` gets onto the reference's, in words; None where it is there already."""
        if self.grid is None or own.turn_onto(self.grid) is not None:
            return None
        chain = self.chains.get(name, ())
        return ", ".join(f"inverse of {path.name}" if inverted else path.name for path, inverted in chain) or "headers"

    def offset_mm(self, own: ScanGrid) -> float | None:
        """How far a grid that is taken for the reference's lies from it at most; None for what is not worth a word."""
        if self.grid is None or own.turn_onto(self.grid) is None:
            return None
        offset = own.offset_mm(self.grid)
        return offset if offset is not None and offset > TOLD_MM else None

    def require_place(self, name: str, path: Path, own: ScanGrid) -> None:
        """Raises DatasetError where a file with the grid `own` cannot be put onto the reference's.

        That is where the grids differ and nothing is to be resampled, where its name declares a space to which no
        transform leads, and where a scan shares less than half of its field of view with the reference.
        """
        if self.grid is None or own.turn_onto(self.grid) is not None:
            return
        here = f"{self.reference} ({self.grid.describe()}) and {path} ({own.describe()})"
        if space := self.strays.get(name):
            raise DatasetError(
                f"{here} are on different grids, {apart(self.grid, own)}, and the names say that they are in different "
                f"spaces ({path.name}: {space}), between which no transform leads; add it beside the scans as "
                f"*_from-{space}_to-*_mode-image_xfm.txt (ITK), or take a file in the scan's own space"
            )
        if not self.resample:
            raise DatasetError(
                f"{here} are on different grids, {apart(self.grid, own)}; resample one to the other, or take the pair "
                "that belongs together"
            )
        if name not in ("lesions", "brain") and (shared := self._shared(name, own)) < SHARED_MIN:
            raise DatasetError(
                f"{path}: shares {shared:.0%} of its field of view with {self.reference}, expected at least "
                f"{SHARED_MIN:.0%}; correct its header, or add the transform between them"
            )

    def _to_voxels(self, name: str, own: ScanGrid) -> Affine:
        """(4, 4), canonical voxels of the reference to those of the file."""
        if self.grid is None:
            return np.eye(4)
        world = composed(self.chains.get(name, ()))
        to_voxels: Affine = np.linalg.inv(own.affine_ras) @ world @ self.grid.affine_ras
        return to_voxels

    def _shared(self, name: str, own: ScanGrid) -> float:
        """Share of a file's field of view that the reference's holds, or of the reference's that the file's holds.

        The larger of both: a slab within a whole head is one case, a head beside another one is none.
        """
        if self.grid is None:
            return 1.0
        to_voxels = self._to_voxels(name, own)
        there, here = own.canonical_shape, self.grid.canonical_shape
        return max(_held(here, to_voxels, there), _held(there, np.linalg.inv(to_voxels), here))


def _held(shape: Sequence[int], to_other: npt.NDArray[np.floating[Any]], other: Sequence[int]) -> float:
    """Share of a field of view, in voxels of `shape`, that another one holds."""
    axes = [np.linspace(0, size - 1, PROBES) for size in shape]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return float(inside(places @ to_other[:3, :3].T + to_other[:3, 3], other).mean())


def reader_onto(
    reference: str | None,
    scans: Mapping[str, Path],
    chains: Mapping[str, TransformChain],
    *,
    resample: bool = True,
    strays: Mapping[str, str] | None = None,
) -> CaseReader:
    """What reads a case onto the grid of the scan `reference`, or as it is. Raises VolumeError as `load_grid`."""
    if reference is None or reference not in scans:
        return CaseReader()
    return CaseReader(load_grid(scans[reference]), chains, str(scans[reference]), resample, strays or {})


def case_reader(
    resample_to: str | None,
    modalities: Sequence[str],
    scans: Mapping[str, Path],
    chains: Mapping[str, TransformChain] | None = None,
    strays: Mapping[str, str] | None = None,
) -> CaseReader:
    """What reads a case as a recipe says: onto one grid where `resample_to` is set, else what is on the first's."""
    reference = resample_to or modalities[0]
    return reader_onto(reference, scans, chains or {}, resample=resample_to is not None, strays=strays)


def require_reference(reference: str | None, modalities: Sequence[str]) -> str | None:
    """The reference. Raises ValueError where a recipe does not read it. An empty one is none: it undoes a recipe's."""
    if reference and reference not in modalities:
        raise ValueError(f"expected one of the recipe's modalities, {', '.join(modalities)}; received: {reference!r}")
    return reference or None


def composed(chain: TransformChain) -> Affine:
    """(4, 4), points of the reference to points of the file, RAS mm. An empty chain is the identity."""
    matrices = (np.linalg.inv(affine) if inverted else affine for affine, inverted in _read(chain))
    return reduce(lambda whole, matrix: matrix @ whole, matrices, np.eye(4))


def _read(chain: TransformChain) -> list[tuple[Affine, bool]]:
    return [(read_affine(path), inverted) for path, inverted in chain]


def _transformed(
    data: npt.NDArray[Any],
    to_voxels: Affine,
    grid: ScanGrid,
    *,
    order: Literal[0, 1],
    mode: Literal["constant", "grid-constant"],
) -> Any:
    return ndimage.affine_transform(
        data,
        to_voxels[:3, :3],
        to_voxels[:3, 3],
        output_shape=grid.canonical_shape,
        order=order,
        mode=mode,
        prefilter=False,
    )


def _of_most(name: str) -> str:
    what = "mask" if name == "lesions" else "brain mask"
    return f"check that this {what} belongs to the scan, correct its header, or add the transform that leads to it"
