"""A layout of another package whose masks have a label set of their own: `images/CASE.nii.gz`, `labels/CASE.nii.gz`."""

from __future__ import annotations

from pathlib import Path

from mspipeline.datasets.case import Candidate, Case, Layout, Wanted
from mspipeline.datasets.layouts import DatasetLayout
from mspipeline.labels import LabelSet

HIPPOCAMPUS = LabelSet(
    ("background", "anterior", "posterior"),
    count_components=frozenset({"posterior"}),
    regions={"hippocampus": ("anterior", "posterior")},
)


def _read(folder: Path, wanted: Wanted) -> Layout:
    layout = Layout()
    for scan in sorted((folder / "images").glob("*.nii.gz")):
        case, labels = f"sub-{scan.name.removesuffix('.nii.gz')}", folder / "labels" / scan.name
        found = Case(case, case, None, {"FLAIR": scan}, labels if wanted.lesions and labels.exists() else None, None)
        layout.candidates.append(Candidate(found, ("FLAIR",)))
    return layout


LABELLED = DatasetLayout(
    recognizes=lambda folder: (folder / "images").is_dir(),
    read=_read,
    dataset_name=lambda folder: folder.name,
    looked_for="labels/CASE.nii.gz",
    labels=lambda folder: HIPPOCAMPUS,
)
