"""A layout of another package: `scans/CASE.nii.gz`, all FLAIR, and `masks/CASE.nii.gz`."""

from __future__ import annotations

from pathlib import Path

from mspipeline.datasets.case import Candidate, Case, Layout, Wanted
from mspipeline.datasets.layouts import DatasetLayout


def _read(folder: Path, wanted: Wanted) -> Layout:
    layout = Layout()
    for scan in sorted((folder / "scans").glob("*.nii.gz")):
        case, mask = f"sub-{scan.name.removesuffix('.nii.gz')}", folder / "masks" / scan.name
        found = Case(case, case, None, {"FLAIR": scan}, mask if wanted.lesions and mask.exists() else None, None)
        layout.candidates.append(Candidate(found, ("FLAIR",)))
    return layout


TWO_FOLDERS = DatasetLayout(
    recognizes=lambda folder: (folder / "scans").is_dir(),
    read=_read,
    dataset_name=lambda folder: folder.name,
    looked_for="masks/CASE.nii.gz",
)
