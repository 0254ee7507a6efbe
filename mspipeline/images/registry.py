"""The image formats by name, and which of them a file is of: whoever reads or writes an image asks here.

Packages add formats by the entry point group `mspipeline.formats`: a subclass of `ImageFormat`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.errors import SuiteError, VolumeError
from mspipeline.grid import ScanGrid
from mspipeline.images.format import ImageFormat
from mspipeline.images.nifti import Nifti
from mspipeline.plugins import Registry, subclass_of

_BUILT_IN: dict[str, ImageFormat] = {each.name: each() for each in (Nifti,)}


def _accept(name: str, made: Any) -> ImageFormat:
    """A format of a package. Raises ValueError for one that lacks something, or whose endings the suite has."""
    kind: type[ImageFormat] = subclass_of(ImageFormat)(name, made)
    endings = getattr(kind, "endings", ())
    if not (isinstance(endings, tuple) and endings and all(_is_ending(each) for each in endings)):
        raise ValueError(f"its endings are {endings!r}, expected a tuple of endings in lower case, such as ('.mgz',)")
    taken = [f"{each} (of {own.name})" for own in _BUILT_IN.values() for each in own.endings if each in endings]
    if taken:
        raise ValueError(f"the suite reads {', '.join(taken)}; choose other endings")
    return kind()


def _is_ending(word: object) -> bool:
    return isinstance(word, str) and len(word) > 1 and word.startswith(".") and word == word.lower()


FORMATS: Registry[ImageFormat] = Registry("format", "mspipeline.formats", _BUILT_IN, _accept)
"""The formats by name. Of several with one ending, the suite's own and then the first by name has it."""


def readable_ending(name: str) -> str:
    """The ending by which a file's name is that of an image, in lower case; empty where no format has it.

    >>> readable_ending("sub-01_T1w.NII.gz"), readable_ending("sub-01_T1w.json")
    ('.nii.gz', '')
    """
    return max((each for each in readable_endings() if name.lower().endswith(each)), key=len, default="")


def readable_endings() -> tuple[str, ...]:
    """The endings of all formats, in their order.

    >>> readable_endings()[:2]
    ('.nii', '.nii.gz')
    """
    return tuple(dict.fromkeys(each for known in FORMATS.working().values() for each in known.endings))


def format_of(path: Path) -> ImageFormat:
    """The format of a file, by its name. Raises VolumeError, with the formats that there are, where none has it."""
    ending, known = readable_ending(path.name), FORMATS.working()
    if not ending:
        formats = "; ".join(f"{name}: {', '.join(each.endings)}" for name, each in known.items())
        broken = [f"{problem} (repair the package)" for problem in FORMATS.problems()]
        raise VolumeError(
            f"{path}: of no known image format, expected one of {'; '.join([formats, *broken])}; convert it, or "
            "install a package that adds its format"
        )
    return next(each for each in known.values() if ending in each.endings)


def read_grid(path: Path) -> ScanGrid:
    """The grid of an image, without its voxels. Raises VolumeError as its format's `read_grid`, and `format_of`."""
    known = format_of(path)
    with _named(known, path):
        return known.read_grid(path)


def read_image(path: Path) -> tuple[ScanGrid, npt.NDArray[np.float32]]:
    """The grid of an image and its voxels (I, J, K) as stored, scaled. Raises VolumeError as `ImageFormat.read`."""
    known = format_of(path)
    with _named(known, path):
        grid, data = known.read(path)
        if np.shape(data) != grid.shape:
            raise ValueError(f"voxels of shape {np.shape(data)} on a grid of {grid.shape}")
        return grid, np.asarray(data, np.float32)


def write_image(path: Path, data: npt.NDArray[Any], grid: ScanGrid) -> None:
    """Write voxels (I, J, K) in the format of the file's name. Raises StorageError, and VolumeError as `format_of`."""
    known = format_of(path)
    with _named(known, path):
        known.write(path, data, grid)


@contextmanager
def _named(known: ImageFormat, path: Path) -> Iterator[None]:
    """Whatever a stranger's format raises is said in its name; what the suite's own raises is left as it is."""
    try:
        yield
    except SuiteError:
        raise
    except Exception as error:
        if known.name in _BUILT_IN:
            raise
        raise VolumeError(
            f"{path}: format {known.name!r} of another package failed ({type(error).__name__}: {error}); "
            "repair the file or the package, or convert the image"
        ) from error
