"""Scans of the open-MS repository as they came from the scanner: each modality on a grid of its own.

[[longitudinal/]raw/]patientNN/     or one patient's folder itself
  study1_FLAIR.nii.gz, study1_T1W.nii.gz, study1_T2W.nii.gz     a session each study
  study1_T1W_intrastudy_to_FLAIR.txt, study1_FLAIR_to_common_space.txt, ...
  brainmask*.nii.gz, gt*.nii.gz     in the space common to the patient's studies

gt marks the lesions that changed between two studies, not all there are (Lesjak et al. 2016, Neuroinformatics).
"""

from __future__ import annotations

import re
from pathlib import Path

from mspipeline.datasets.case import Candidate, Case, Layout, Wanted
from mspipeline.datasets.listing import children, is_folder
from mspipeline.datasets.names import Name, choose
from mspipeline.datasets.transforms import COMMON, named_transforms
from mspipeline.images.registry import readable_ending

FOLDERS = (".", "raw", "longitudinal/raw")
MODALITIES = {"FLAIR": "FLAIR", "T1W": "T1w", "T2W": "T2w"}
CHANGED = "gt*.nii.gz marks only lesions that changed between two studies; --change-mask takes it all the same"
_SCAN = re.compile(r"(study\d+)_(FLAIR|T1W|T2W)$")


def raw_patients(folder: Path) -> list[Path]:
    """Patients' folders in `folder`, or itself where it is one; or empty."""
    if _holds_scans(folder):
        return [folder]
    for below in FOLDERS:
        place = folder / below
        found = [child for child in (children(place) if is_folder(place) else ()) if child.name.startswith("patient")]
        if found := [child for child in found if _holds_scans(child)]:
            return found
    return []


def read_open_ms_raw(folder: Path, wanted: Wanted) -> Layout:
    """Each study of each patient with what it has, complete or not. Raises DatasetError where two masks fit."""
    layout = Layout()
    for patient in raw_patients(folder):
        _read_patient(patient, wanted, layout)
    return layout


def _read_patient(patient: Path, wanted: Wanted, layout: Layout) -> None:
    subject = "sub-" + re.sub("[^A-Za-z0-9]", "", patient.resolve().name)
    images = [Name(path) for path in children(patient) if readable_ending(path.name)]
    studies: dict[str, dict[str, list[Name]]] = {}
    for image in images:
        if match := _SCAN.match(image.stem):
            studies.setdefault(match[1], {}).setdefault(MODALITIES[match[2]], []).append(image)
    brains = [image for image in images if image.path.name.startswith("brainmask")] if wanted.brain else []
    changed = [image for image in images if image.path.name.startswith("gt")] if wanted.change_masks else []
    brain = choose(brains, subject, "brain mask", wanted.prefer) if brains else None
    lesions = choose(changed, subject, "lesion mask (gt*)", wanted.prefer) if changed else None
    for study, scans in studies.items():
        name = f"{subject}_ses-{study}"
        one = {
            modality: choose(scans[modality], name, modality, wanted.prefer)
            for modality in wanted.modalities
            if modality in scans
        }
        case = Case(
            id=name,
            subject=subject,
            session=f"ses-{study}",
            scans=one,
            lesion_mask=lesions,
            brain_mask=brain,
            transforms=named_transforms(path for path in children(patient) if path.name.startswith(f"{study}_")),
            mask_spaces={"lesions": COMMON, "brain": COMMON},
        )
        layout.candidates.append(Candidate(case, tuple(sorted(scans))))
        for modality, files in scans.items():
            layout.others[modality] += sum(file.path not in one.values() for file in files)
    layout.others += type(layout.others)()  # a kind of which every file is used is none


def _holds_scans(folder: Path) -> bool:
    return is_folder(folder) and any(
        readable_ending(path.name) and _SCAN.match(Name(path).stem) for path in children(folder)
    )
