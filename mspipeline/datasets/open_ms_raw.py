"""Scans of the open-MS repository as they came from the scanner: each modality on a grid of its own.

[[longitudinal/]raw/]patientNN/     or one patient's folder itself
  study1_FLAIR.nii.gz, study1_T1W.nii.gz, study1_T2W.nii.gz     a session each study
  study1_T1W_intrastudy_to_FLAIR.txt, study1_FLAIR_to_common_space.txt, ...
  brainmask*.nii.gz, gt*.nii.gz     in the space common to the patient's studies

gt marks the lesions that changed between two studies, not all there are (Lesjak et al. 2016, Neuroinformatics).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mspipeline.datasets.case import Case
from mspipeline.datasets.transforms import COMMON, named_transforms
from mspipeline.errors import DatasetError

FOLDERS = (".", "raw", "longitudinal/raw")
MODALITIES = {"FLAIR": "FLAIR", "T1W": "T1w", "T2W": "T2w"}
CHANGED = "gt*.nii.gz marks only lesions that changed between two studies; --change-mask takes it all the same"
_SCAN = re.compile(r"(study\d+)_(FLAIR|T1W|T2W)\.nii(\.gz)?$")


def raw_patients(folder: Path) -> list[Path]:
    """Patients' folders in `folder`, or itself where it is one; or empty."""
    if _holds_scans(folder):
        return [folder]
    for below in FOLDERS:
        patients = [child for child in sorted((folder / below).glob("patient*")) if _holds_scans(child)]
        if patients:
            return patients
    return []


def raw_cases(patient: Path, modalities: Sequence[str], change_mask: bool) -> list[tuple[Case, list[str]]]:
    """Each study of a patient, a session each, and the modalities it has. Raises DatasetError where two masks fit."""
    studies: dict[str, dict[str, Path]] = {}
    for path in sorted(patient.iterdir()):
        if match := _SCAN.match(path.name):
            studies.setdefault(match[1], {})[MODALITIES[match[2]]] = path
    brain = _one(patient, "brainmask*.nii*")
    changed = _one(patient, "gt*.nii*") if change_mask else None
    subject = "sub-" + re.sub("[^A-Za-z0-9]", "", patient.resolve().name)
    found = []
    for study, scans in studies.items():
        transforms = named_transforms(patient.glob(f"{study}_*_to_*.txt"))
        case = Case(
            id=f"{subject}_ses-{study}",
            subject=subject,
            session=f"ses-{study}",
            scans={modality: scans[modality] for modality in modalities if modality in scans},
            lesion_mask=changed,
            brain_mask=brain,
            transforms=transforms,
            mask_spaces={"lesions": COMMON, "brain": COMMON},
        )
        found.append((case, sorted(scans)))
    return found


def _holds_scans(folder: Path) -> bool:
    return folder.is_dir() and any(_SCAN.match(path.name) for path in folder.iterdir())


def _one(patient: Path, pattern: str) -> Path | None:
    paths = sorted(patient.glob(pattern))
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise DatasetError(f"{patient}: {len(paths)} files {pattern} ({names}), expected one; move the others away")
    return paths[0] if paths else None
