"""A BIDS dataset of synthetic heads with lesions, to try the suite without patients."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mspipeline import __version__
from mspipeline.datasets.phantom_anatomy import Axes, grid_axes, make_head
from mspipeline.errors import StorageError, UsageError
from mspipeline.files import write_bytes, write_json
from mspipeline.volume import ScanGrid, save_volume

FIELD_OF_VIEW_MM = (192.0, 192.0, 150.0)
"""What the grid covers where no spacing is given; the heads are made to fit it."""

BIDS_VERSION = "1.9.0"
MAKER = {"Name": "mspipeline phantom", "Version": __version__}
README = """Synthetic heads with white-matter lesions: no patient was scanned.

T1w, T2w and FLAIR share one grid. Masks of lesions and brain are in derivatives/.
Made by `mspipeline phantom`; the seed and the grid are in dataset_description.json.
"""


def make_phantom(
    folder: Path,
    *,
    cases: int = 6,
    seed: int = 0,
    shape: tuple[int, int, int] = (64, 64, 48),
    spacing_mm: tuple[float, float, float] | None = None,
    report: Callable[[str, int, int], None] | None = None,
) -> None:
    """Write a BIDS dataset of `cases` heads, sub-01 onwards, into a folder that is empty or does not exist.

    seed: case k depends on seed and k only, not on the number of cases; equal arguments give equal bytes.
    shape: voxels to the right, to the front, up. spacing_mm: of these axes; None spreads FIELD_OF_VIEW_MM over the
    shape. Heads keep their size in mm whatever the grid. Files are int16, LAS, both NIfTI codes 1.
    report: called as report(case, done, total) after each case.
    The folder stays as it was where the work fails or is interrupted.
    Raises UsageError where the folder holds anything or an argument is out of range, StorageError where the disk
    refuses.
    """
    if cases < 1 or seed < 0 or min(shape) < 8 or (spacing_mm and min(spacing_mm) <= 0):
        raise UsageError(
            f"phantom of {cases} cases, seed {seed}, shape {shape}, spacing {spacing_mm} mm cannot be made; expected "
            "at least 1 case, a seed from 0, 8 voxels along each axis and a spacing above 0"
        )
    staging = folder / ".partial"
    existed = folder.exists()
    if existed and (not folder.is_dir() or any(item.name != staging.name for item in folder.iterdir())):
        raise UsageError(f"{folder}: is not an empty folder; name a new one, or empty it first")
    x, y, z = (size / n for size, n in zip(FIELD_OF_VIEW_MM, shape, strict=True))
    spacing_mm = spacing_mm or (x, y, z)
    try:
        shutil.rmtree(staging, ignore_errors=True)  # what a killed attempt left
        _write_dataset(staging, cases=cases, seed=seed, shape=shape, spacing_mm=spacing_mm, report=report)
        for item in sorted(staging.iterdir(), key=lambda item: item.name == "dataset_description.json"):
            os.replace(item, folder / item.name)  # the description last: without it the folder is not BIDS
        staging.rmdir()
    except OSError as error:
        _clear(folder, existed)
        raise StorageError(
            f"{folder}: the phantom cannot be written ({error.strerror}); choose another folder"
        ) from error
    except BaseException:
        _clear(folder, existed)
        raise


def _write_dataset(
    root: Path,
    *,
    cases: int,
    seed: int,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    report: Callable[[str, int, int], None] | None,
) -> None:
    axes = grid_axes(shape, spacing_mm)
    grid = _las_grid(axes, shape, spacing_mm)
    names = [f"sub-{number:02d}" for number in range(1, cases + 1)]
    for number, name in enumerate(names, start=1):
        scans, lesions, brain = make_head(seed, number, axes)
        for modality, scan in scans.items():
            save_volume(root / name / "anat" / f"{name}_{modality}.nii.gz", scan, grid)
        derivatives = root / "derivatives"
        save_volume(derivatives / "lesions" / name / "anat" / f"{name}_label-lesion_mask.nii.gz", lesions, grid)
        save_volume(derivatives / "brain" / name / "anat" / f"{name}_desc-brain_mask.nii.gz", brain, grid)
        if report:
            report(name, number, cases)
    for masks, title in (("lesions", "Lesion masks of the phantom"), ("brain", "Brain masks of the phantom")):
        document = {
            "Name": title,
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [MAKER],
        }
        write_json(root / "derivatives" / masks / "dataset_description.json", document)
    write_bytes(root / "participants.tsv", "\n".join(["participant_id", *names, ""]).encode())
    write_bytes(root / "README", README.encode())
    document = {
        "Name": "mspipeline phantom",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "raw",
        "License": "CC0",
        "GeneratedBy": [MAKER | {"Description": f"seed {seed}, shape {shape}, spacing {spacing_mm} mm"}],
    }
    write_json(root / "dataset_description.json", document)


def _las_grid(axes: Axes, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> ScanGrid:
    """The grid of files whose first axis runs to the left; world 0 is the middle of the grid."""
    affine = np.diag([-spacing_mm[0], spacing_mm[1], spacing_mm[2], 1.0])
    affine[:3, 3] = axes[0][-1], axes[1][0], axes[2][0]
    return ScanGrid(shape, affine, qform_code=1, sform_code=1)


def _clear(folder: Path, existed: bool) -> None:
    """Put the folder back to what it was: empty, or absent."""
    if not existed:
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.is_dir():
        for item in folder.iterdir():
            shutil.rmtree(item, ignore_errors=True) if item.is_dir() else item.unlink(missing_ok=True)
