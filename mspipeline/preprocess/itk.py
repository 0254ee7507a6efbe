"""ITK's affine transforms: the text files of ITK and Slicer (.txt, .tfm) and the .mat files of ANTs.

A transform maps a point x of the fixed image to M (x - c) + c + t of the moving one, in mm, in LPS (x runs to the
patient's left, y to posterior): M and t are the twelve parameters, c the three fixed parameters.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import io

from mspipeline.errors import DatasetError
from mspipeline.files import read_text

Affine = npt.NDArray[np.float64]

RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_KIND = re.compile(r"(AffineTransform|MatrixOffsetTransformBase)_(double|float)_3_3")


def read_affine(path: Path) -> Affine:
    """(4, 4), fixed to moving points in RAS mm, as NIfTI's affines are.

    Raises DatasetError where the file is no ITK transform, or another one than affine.
    """
    try:
        kind, parameters, centre = _read_mat(path) if path.suffix == ".mat" else _read_text(path)
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise DatasetError(f"{path}: not an ITK transform ({error}); export it from its tool as ITK text") from error
    if not _KIND.fullmatch(kind):
        raise DatasetError(
            f"{path}: an ITK transform of type {kind}, expected AffineTransform or MatrixOffsetTransformBase in three "
            "dimensions; convert it, or resample the scans with the tool that made it and take the transform away"
        )
    if parameters.shape != (12,) or centre.shape != (3,) or not np.isfinite(parameters).all():
        raise DatasetError(
            f"{path}: {parameters.size} parameters and {centre.size} fixed ones, expected 12 finite numbers and 3"
        )
    matrix = parameters[:9].reshape(3, 3)
    affine = np.eye(4)
    affine[:3, :3] = matrix
    affine[:3, 3] = parameters[9:] + centre - matrix @ centre
    if abs(np.linalg.det(matrix)) < 1e-6:
        raise DatasetError(f"{path}: its matrix is singular, expected one that can be inverted; register again")
    result: Affine = RAS_LPS @ affine @ RAS_LPS
    return result


def _read_text(path: Path) -> tuple[str, Affine, Affine]:
    lines = [line.strip() for line in read_text(path).splitlines()]
    if not lines or not lines[0].startswith("#Insight Transform File"):
        raise ValueError("it does not begin with '#Insight Transform File'")
    entries = [line.partition(":")[::2] for line in lines if not line.startswith("#") and ":" in line]
    if (count := sum(name == "Transform" for name, _ in entries)) != 1:
        raise ValueError(f"it holds {count} transforms, expected one")
    fields = {name: value.split() for name, value in entries}
    numbers = (np.array(fields[name], float) for name in ("Parameters", "FixedParameters"))
    return fields["Transform"][0], next(numbers), next(numbers)


def _read_mat(path: Path) -> tuple[str, Affine, Affine]:
    fields = {name: value for name, value in io.loadmat(path).items() if not name.startswith("__")}
    kind = next(name for name in fields if name != "fixed")
    return kind, np.ravel(fields[kind]).astype(float), np.ravel(fields["fixed"]).astype(float)
