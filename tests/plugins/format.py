"""A format of another package: a line of JSON with shape, type and affine, then the voxels, the first axis fastest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mspipeline.errors import VolumeError
from mspipeline.files import write_bytes
from mspipeline.grid import ScanGrid
from mspipeline.images.format import ImageFormat


class Plain(ImageFormat):
    """`SCAN.plain`."""

    name: ClassVar[str] = "plain"
    endings: ClassVar[tuple[str, ...]] = (".plain",)

    def read_grid(self, path: Path) -> ScanGrid:
        with path.open("rb") as stream:
            return _grid(path, stream.readline())[0]

    def read(self, path: Path) -> tuple[ScanGrid, npt.NDArray[np.float32]]:
        start, _, voxels = path.read_bytes().partition(b"\n")
        grid, dtype = _grid(path, start)
        data = np.frombuffer(voxels, dtype).reshape(grid.shape, order="F")
        return grid, data.astype(np.float32)

    def write(self, path: Path, data: npt.NDArray[Any], grid: ScanGrid) -> None:
        start = {"shape": data.shape, "dtype": data.dtype.str, "affine": grid.affine.tolist()}
        write_bytes(path, json.dumps(start).encode() + b"\n" + data.tobytes(order="F"))


def _grid(path: Path, start: bytes) -> tuple[ScanGrid, np.dtype[Any]]:
    try:
        header = json.loads(start)
    except ValueError as error:
        raise VolumeError(f"{path}: does not begin with a line of JSON; convert it again") from error
    i, j, k = header["shape"]
    return ScanGrid((i, j, k), np.array(header["affine"], float), qform_code=1, sform_code=1), np.dtype(header["dtype"])


class Shadow(Plain):
    """Asks for an ending that the suite reads."""

    name: ClassVar[str] = "shadow"
    endings: ClassVar[tuple[str, ...]] = (".plain", ".nii")


class Unread(ImageFormat):
    """Reads nothing yet."""

    name: ClassVar[str] = "unread"
    endings: ClassVar[tuple[str, ...]] = (".unread",)
