"""The patients of the open-MS repository whose scans were put on one grid.

[[cross_sectional/]MNI/]patientNN/FLAIR*, T1*, T2*, GOLD_STANDARD*, brainmask*
"""

from __future__ import annotations

import re
from pathlib import Path

from mspipeline.datasets.case import Candidate, Case, Layout, Wanted
from mspipeline.datasets.listing import children, is_folder, printable
from mspipeline.datasets.names import Name, choose
from mspipeline.images.registry import readable_ending

FOLDERS = (".", "MNI", "cross_sectional/MNI")
MODALITIES = {
    # T1POST, T1KS and T1WKS are contrast-enhanced: not a T1w.
    "FLAIR": re.compile(r"FLAIR(?![A-Za-z0-9])"),
    "T1w": re.compile(r"T1W?(?![A-Za-z0-9])"),
    "T1w (contrast-enhanced)": re.compile(r"T1(W?KS|POST)(?![A-Za-z0-9])"),
    "T2w": re.compile(r"T2W?(?![A-Za-z0-9])"),
}
LESIONS = re.compile(r"GOLD_STANDARD")
BRAIN = re.compile(r"brainmask", re.IGNORECASE)


def patients(folder: Path) -> list[Path]:
    """Patient folders under the repository's root, its `cross_sectional`, or `MNI`; or empty."""
    known = [*MODALITIES.values(), LESIONS]
    for below in FOLDERS:
        place = folder / below
        found = [
            child
            for child in (children(place) if is_folder(place) else ())
            if child.name.startswith("patient")
            and is_folder(child)
            and any(pattern.match(path.name) for path in _images(child) for pattern in known)
        ]
        if found:
            return found
    return []


def read_open_ms(folder: Path, wanted: Wanted) -> Layout:
    """Every patient with what it has, complete or not. Raises DatasetError where several files of one kind fit."""
    layout = Layout()
    for patient in patients(folder):
        case = printable(f"sub-{patient.name}")
        images = [Name(path) for path in _images(patient)]

        def fitting(pattern: re.Pattern[str], images: list[Name] = images) -> list[Name]:
            return [image for image in images if pattern.match(image.path.name)]

        scans = {name: fitting(pattern) for name, pattern in MODALITIES.items()}
        lesions = fitting(LESIONS) if wanted.lesions else []
        brains = fitting(BRAIN) if wanted.brain else []
        one = {name: choose(scans[name], case, name, wanted.prefer) for name in wanted.modalities if scans.get(name)}
        lesion_mask = choose(lesions, case, "lesion mask", wanted.prefer) if lesions else None
        brain_mask = choose(brains, case, "brain mask", wanted.prefer) if brains else None
        available = tuple(name for name, paths in scans.items() if paths)
        layout.candidates.append(Candidate(Case(case, case, None, one, lesion_mask, brain_mask), available))
        used = {*one.values(), lesion_mask, brain_mask}
        kinds = {image.path: name for name, paths in scans.items() for image in paths}
        for image in images:
            if image.path not in used and not LESIONS.match(image.path.name) and not BRAIN.match(image.path.name):
                layout.others[kinds.get(image.path, image.path.name)] += 1
    return layout


def _images(folder: Path) -> list[Path]:
    return [path for path in children(folder) if readable_ending(path.name)]
