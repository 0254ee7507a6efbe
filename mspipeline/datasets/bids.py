"""Which cases a folder of scans holds: BIDS, or one of the two layouts of the open-MS repository.

BIDS        DATASET/sub-*/[ses-*/]anat/*_<modality>.nii[.gz]
            DATASET/derivatives/*/sub-*/[ses-*/]anat/*_label-lesion_mask.nii[.gz]    lesions
                                                    *_desc-brain_mask.nii[.gz]       brain, also *_label-brain_mask
            *_from-A_to-B_*_xfm.{txt,tfm,mat} beside either, see `datasets.transforms`; masks may name their _space-
open-MS     [[cross_sectional/]MNI/]patientNN/FLAIR*, T1*, T2*, GOLD_STANDARD*
open-MS raw [[longitudinal/]raw/]patientNN/study1_FLAIR*, ..., see `datasets.open_ms_raw`
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mspipeline.datasets.case import Case
from mspipeline.datasets.open_ms_raw import CHANGED, raw_cases, raw_patients
from mspipeline.datasets.transforms import named_transforms
from mspipeline.errors import DataError, DatasetError
from mspipeline.files import read_json

log = logging.getLogger(__name__)

__all__ = ["Case", "Found", "find_cases"]

Layout = Literal["bids", "open-ms", "open-ms-raw"]
Masks = Literal["required", "optional"]

PREDICTED = "mspipeline-"
"""How the folders begin in which `mspipeline predict` puts its maps."""
LESIONS = "label-lesion_mask"
BRAIN = ("desc-brain_mask", "label-brain_mask")
SPACE = re.compile(r"_space-([A-Za-z0-9]+)_")

OPEN_MS_FOLDERS = (".", "MNI", "cross_sectional/MNI")
OPEN_MS_NAMES = {
    # T1POST, T1KS and T1WKS are contrast-enhanced: not a T1w.
    "FLAIR": re.compile(r"FLAIR(?![A-Za-z0-9]).*\.nii(\.gz)?$"),
    "T1w": re.compile(r"T1W?(?![A-Za-z0-9]).*\.nii(\.gz)?$"),
    "T1w (contrast-enhanced)": re.compile(r"T1(W?KS|POST)(?![A-Za-z0-9]).*\.nii(\.gz)?$"),
    "T2w": re.compile(r"T2W?(?![A-Za-z0-9]).*\.nii(\.gz)?$"),
}
OPEN_MS_LESIONS = re.compile(r"GOLD_STANDARD.*\.nii(\.gz)?$")
OPEN_MS_BRAIN = re.compile(r"brainmask.*\.nii(\.gz)?$", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """What a folder holds. cases: complete ones, by id. incomplete: (case id, reason) of the others."""

    dataset_name: str
    layout: Layout
    cases: tuple[Case, ...]
    incomplete: tuple[tuple[str, str], ...]


def find_cases(folder: Path, modalities: Sequence[str], *, masks: Masks, change_masks: bool = False) -> Found:
    """The cases of a dataset that have every modality and, where `masks` is "required", a lesion mask.

    change_masks: take open-MS's masks of lesions that changed between two studies for lesion masks.
    No image is opened. Raises DatasetError where the folder is of no layout, or one case has several files of one kind
    and nothing says which is meant.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: {'a file' if folder.exists() else 'no such folder'}, expected a BIDS dataset")
    if any(child.is_dir() for child in folder.glob("sub-*")):
        layout: Layout = "bids"
        name = _bids_name(folder)
        candidates = _bids_cases(folder, modalities)
    elif patients := _open_ms_patients(folder):
        layout = "open-ms"
        name = "open-ms"
        candidates = [_open_ms_case(patient, modalities) for patient in patients]
    elif patients := raw_patients(folder):
        layout = "open-ms-raw"
        name = "open-ms-raw"
        candidates = [case for patient in patients for case in raw_cases(patient, modalities, change_masks)]
    else:
        raise DatasetError(_neither(folder))
    cases: list[Case] = []
    incomplete: list[tuple[str, str]] = []
    for case, available in candidates:
        missing = [modality for modality in modalities if modality not in case.scans]
        if missing:
            incomplete.append((case.id, f"no {' and no '.join(missing)} (has {', '.join(available) or 'no scan'})"))
        elif case.lesion_mask is None and masks == "required":
            looked_for = {
                "bids": f"derivatives/*/{case.subject}/.../*_{LESIONS}.nii.gz",
                "open-ms": "GOLD_STANDARD*",
                "open-ms-raw": CHANGED,
            }[layout]
            incomplete.append((case.id, f"no lesion mask ({looked_for})"))
        else:
            cases.append(case)
    return Found(name, layout, tuple(cases), tuple(incomplete))


def _bids_name(folder: Path) -> str:
    """The name in dataset_description.json, else the folder's own: many datasets lack the file."""
    path = folder / "dataset_description.json"
    if not path.exists():
        return folder.resolve().name
    try:
        document: Any = read_json(path, what="BIDS description", remedy="the dataset takes its folder's name")
    except DataError as error:
        log.warning("%s", error)  # a name is not worth refusing the scans
        return folder.resolve().name
    name = document.get("Name") if isinstance(document, dict) else None
    return name if isinstance(name, str) and name.strip() else folder.resolve().name


def _bids_cases(folder: Path, modalities: Sequence[str]) -> list[tuple[Case, list[str]]]:
    """Each subject and session with the suffixes it has."""
    found = []
    for subject in sorted(child for child in folder.glob("sub-*") if child.is_dir()):
        sessions = sorted(child for child in subject.glob("ses-*") if child.is_dir())
        for place in sessions or [subject]:
            session = place.name if sessions else None
            case = f"{subject.name}_{session}" if session else subject.name
            scans: dict[str, list[Path]] = {}
            for path in _images(place / "anat"):
                scans.setdefault(_modality(path), []).append(path)
            beside = list((folder / "derivatives").glob(f"*/{place.relative_to(folder)}/anat"))
            drawn = [anat for anat in sorted(beside) if not _predicted(anat.relative_to(folder))]
            masks = [path for anat in drawn for path in _images(anat)]
            lesions = _plain([path for path in masks if _stem(path).endswith(f"_{LESIONS}")])
            brains = [path for path in masks if _stem(path).endswith(tuple(f"_{ending}" for ending in BRAIN))]
            one = {modality: _only(scans[modality], case, modality) for modality in modalities if modality in scans}
            lesion_mask = _only(lesions, case, "lesion mask") if lesions else None
            brain_mask = _only(brains, case, "brain mask") if brains else None
            transforms = named_transforms(path for anat in (place / "anat", *drawn) for path in anat.glob("*_xfm.*"))
            spaces = {
                name: space[1]
                for name, mask in (("lesions", lesion_mask), ("brain", brain_mask))
                if mask is not None and (space := SPACE.search(mask.name))
            }
            found.append(
                (Case(case, subject.name, session, one, lesion_mask, brain_mask, transforms, spaces), sorted(scans))
            )
    return found


def _open_ms_patients(folder: Path) -> list[Path]:
    """Patient folders under the repository's root, its `cross_sectional`, or `MNI`; or empty."""
    known = [*OPEN_MS_NAMES.values(), OPEN_MS_LESIONS]
    for below in OPEN_MS_FOLDERS:
        patients = [
            child
            for child in sorted((folder / below).glob("patient*"))
            if child.is_dir() and any(pattern.match(path.name) for path in _images(child) for pattern in known)
        ]
        if patients:
            return patients
    return []


def _open_ms_case(patient: Path, modalities: Sequence[str]) -> tuple[Case, list[str]]:
    case = f"sub-{patient.name}"
    images = _images(patient)
    scans = {name: [p for p in images if pattern.match(p.name)] for name, pattern in OPEN_MS_NAMES.items()}
    available = [name for name, paths in scans.items() if paths]
    lesions = [path for path in images if OPEN_MS_LESIONS.match(path.name)]
    brains = [path for path in images if OPEN_MS_BRAIN.match(path.name)]
    one = {modality: _only(scans[modality], case, modality) for modality in modalities if scans.get(modality)}
    return Case(
        case,
        case,
        None,
        one,
        _only(lesions, case, "lesion mask") if lesions else None,
        _only(brains, case, "brain mask") if brains else None,
    ), available


def _images(folder: Path) -> list[Path]:
    return sorted(
        p for p in folder.glob("*.nii*") if p.name.endswith((".nii", ".nii.gz")) and not p.name.startswith(".")
    )


def _predicted(anat: Path) -> bool:
    """Whether derivatives/NAME/... holds our own lesion maps: a prediction is never taken for a truth."""
    return anat.parts[1].startswith(PREDICTED)


def _modality(path: Path) -> str:
    """The BIDS suffix; a scan with a contrast agent (entity `ce-`) is another modality than one without."""
    stem = _stem(path)
    suffix = stem.rpartition("_")[2]
    return f"{suffix} (contrast-enhanced)" if "_ce-" in stem else suffix


def _plain(masks: list[Path]) -> list[Path]:
    """Of several masks those without a `desc-` entity, where there are any: it names variants, such as predictions."""
    return [path for path in masks if "_desc-" not in path.name] or masks


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _only(paths: Sequence[Path], case: str, what: str) -> Path:
    """The one file there is. Raises DatasetError where there are several."""
    if len(paths) > 1:
        names = ", ".join(str(path) for path in paths)
        raise DatasetError(f"{case}: {len(paths)} files for its {what} ({names}), expected one; move the others away")
    return paths[0]


def _neither(folder: Path) -> str:
    children = sorted(child.name for child in folder.iterdir() if not child.name.startswith("."))
    shown = ", ".join(children[:4]) + (f" and {len(children) - 4} more" if len(children) > 4 else "")
    return (
        f"{folder}: not a BIDS dataset: no folder sub-*/[ses-*/]anat (nor open-MS patient folders) in it, "
        f"found {shown or 'nothing'}; name the folder that holds sub-*, or make one with `mspipeline phantom {folder}`"
    )
