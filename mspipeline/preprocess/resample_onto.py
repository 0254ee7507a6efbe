"""The files of one case on one grid: that of the modality a recipe names, by headers or by transforms beside the files.

A file that lies on the reference's grid is taken as it is, with every value. Any other is interpolated once, from its
own grid: scans linearly, masks by the nearest voxel; what lies outside its field of view is 0. Where a route of
transforms leads to the file, points go through it; where none does, world coordinates of the headers are taken to mean
the same place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import ndimage

from mspipeline.preprocess.itk import Affine, read_affine
from mspipeline.volume import ScanGrid, Volume, load_grid, load_mask, load_volume

Steps = Sequence[tuple[Path, bool]]
"""ITK transforms that a point of the reference goes through, in order; True: through the inverse."""


@dataclass(frozen=True)
class CaseReader:
    """Reads the files of one case.

    grid: of the reference; None reads each file as it is. routes: modality, "brain" or "lesions" -> transforms.
    """

    grid: ScanGrid | None = None
    routes: Mapping[str, Steps] = field(default_factory=dict)

    def volume(self, name: str, path: Path) -> Volume:
        """A scan. Raises as `load_volume` and `read_affine`."""
        return self._placed(name, load_volume(path), order=1)

    def mask(self, name: str, path: Path, *, threshold: float | None = None) -> Volume:
        """A mask, bool. Raises as `load_mask` and `read_affine`."""
        return self._placed(name, load_mask(path, threshold=threshold), order=0)

    def way(self, name: str, own: ScanGrid) -> str | None:
        """How a file with the grid `own` gets onto the reference's, in words; None where it is there already."""
        if self.grid is None or own.same_as(self.grid):
            return None
        steps = self.routes.get(name, ())
        return ", ".join(f"inverse of {path.name}" if inverted else path.name for path, inverted in steps) or "headers"

    def _placed(self, name: str, volume: Volume, *, order: Literal[0, 1]) -> Volume:
        if self.grid is None or volume.grid.same_as(self.grid):
            return volume
        world = follow(self.routes.get(name, ()))
        to_voxels = np.linalg.inv(volume.grid.affine_ras) @ world @ self.grid.affine_ras
        data = ndimage.affine_transform(
            volume.data.view(np.uint8) if volume.data.dtype == bool else volume.data,
            to_voxels[:3, :3],
            to_voxels[:3, 3],
            output_shape=self.grid.canonical_shape,
            order=order,
            mode="constant",
            prefilter=False,
        )
        return Volume(data.view(bool) if volume.data.dtype == bool else data, self.grid)


def reader_onto(reference: str | None, scans: Mapping[str, Path], routes: Mapping[str, Steps]) -> CaseReader:
    """What reads a case onto the grid of the scan `reference`, or as it is. Raises VolumeError as `load_grid`."""
    if reference is None or reference not in scans:
        return CaseReader()
    return CaseReader(load_grid(scans[reference]), routes)


def require_reference(reference: str | None, modalities: Sequence[str]) -> str | None:
    """The reference. Raises ValueError where a recipe does not read it. An empty one is none: it undoes a recipe's."""
    if reference and reference not in modalities:
        raise ValueError(f"expected one of the recipe's modalities, {', '.join(modalities)}")
    return reference or None


def follow(steps: Steps) -> Affine:
    """(4, 4), points of the reference to points of the file, RAS mm. No step is the identity."""
    matrices = (np.linalg.inv(affine) if inverted else affine for affine, inverted in _read(steps))
    return reduce(lambda whole, matrix: matrix @ whole, matrices, np.eye(4))


def _read(steps: Steps) -> list[tuple[Affine, bool]]:
    return [(read_affine(path), inverted) for path, inverted in steps]
