"""What an image format is: how a file of it says where its voxels lie, and what they are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mspipeline.grid import ScanGrid


class ImageFormat(ABC):
    """Files of one 3-D image each, told by the ending of their names.

    name: of the format. endings: of its files' names, with their dot and in lower case; case does not matter.
    """

    name: ClassVar[str]
    endings: ClassVar[tuple[str, ...]]

    @abstractmethod
    def read_grid(self, path: Path) -> ScanGrid:
        """Where the voxels lie, without reading them.

        A format that states one affine has 1 (scanner) for both codes of the grid, and 0 where a file states none.
        Raises VolumeError where the file is missing, is no image of this format, or is not 3-D.
        """

    @abstractmethod
    def read(self, path: Path) -> tuple[ScanGrid, npt.NDArray[np.float32]]:
        """The grid, and the voxels (I, J, K) in the order of the file's axes, scaled.

        Raises VolumeError as `read_grid`, and where the file is truncated or damaged.
        """

    @abstractmethod
    def write(self, path: Path, data: npt.NDArray[Any], grid: ScanGrid) -> None:
        """Write an image that `read` gives back. data: (I, J, K) uint8, int16 or float32.

        Equal data gives equal bytes, and the file appears whole (`files.write_bytes`). Raises StorageError.
        """
