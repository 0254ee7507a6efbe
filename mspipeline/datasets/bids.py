"""BIDS: the cases of DATASET/sub-*/[ses-*/]anat.

DATASET/sub-*/[ses-*/]anat/*_<modality>.nii[.gz]    or with the ending of any other format of `images`
DATASET/derivatives/*/sub-*/[ses-*/]anat/*_label-lesion_mask.nii[.gz]    lesions, also label-L, and the suffix roi
                                         *_desc-brain_mask.nii[.gz]      brain, also label-brain
*_from-A_to-B_*_xfm.{txt,tfm,mat} beside either, see `datasets.transforms`; masks may name their _space-

Masks may lie beside the scans, too. Entities come in any order, see `datasets.names`. anat/ beside ses-* folders is a
case of its own where it has a modality that is asked for. A brain mask of the subject serves those of its sessions that
have none of their own, as fMRIPrep writes it; a lesion mask never does: lesions change.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mspipeline.datasets.case import Candidate, Case, Layout, Wanted
from mspipeline.datasets.listing import children, images, is_folder, obstacle, printable, printable_path
from mspipeline.datasets.names import NATIVE, Name, choose, of_kind
from mspipeline.datasets.transforms import named_transforms
from mspipeline.errors import DataError, DatasetError
from mspipeline.files import read_json
from mspipeline.images.registry import readable_endings

log = logging.getLogger(__name__)

PREDICTED = "mspipeline-"
"""How the folders begin in which `mspipeline predict` puts its maps."""
MAKER = "mspipeline"
"""The name that it gives itself in their description, whatever the folder is called."""
LESIONS = "label-lesion_mask"


def is_bids(folder: Path) -> bool:
    """Whether there are subjects in a folder. Raises DatasetError where it may not be listed."""
    return any(path.name.startswith("sub-") and (is_folder(path) or path.is_symlink()) for path in children(folder))


def bids_name(folder: Path) -> str:
    """The name in dataset_description.json, else the folder's own: many datasets lack the file."""
    name = _description(folder).get("Name")
    return printable(name.strip() if isinstance(name, str) and name.strip() else folder.resolve().name)


def read_bids(folder: Path, wanted: Wanted) -> Layout:
    """Every subject and session with what it has, complete or not.

    Raises DatasetError where several files fit and nothing says which is meant, or a folder cannot be read that is not
    of one subject alone.
    """
    layout = Layout()
    derivatives = _drawn(folder)
    subjects = [path for path in children(folder) if path.name.startswith("sub-")]
    for subject in subjects:
        if is_folder(subject):
            try:
                _Subject(folder, subject, derivatives, wanted).read(layout)
            except _Unreadable as error:
                layout.candidates.append(_empty(subject.name, str(error)))
        elif subject.is_symlink():
            layout.candidates.append(_empty(subject.name, f"{subject} is {obstacle(subject)}"))
    known = {subject.name for subject in subjects}
    for path in children(folder):
        if _nearly_a_subject(path.name) and path.name not in known and is_folder(path):
            layout.unused.append((printable(path.name), "its name is no subject's, expected sub-<label>"))
    for derivative in derivatives if wanted.lesions or wanted.brain else ():
        for path in children(derivative):
            if path.name.startswith("sub-") and path.name not in known and is_folder(path):
                layout.unused.append((_relative(path, folder), "of a subject without scans"))
    return layout


def _nearly_a_subject(name: str) -> bool:
    return name.lower().startswith("sub") and any(letter.isdigit() for letter in name)


class _Unreadable(DatasetError):
    """A folder of one subject that cannot be read: this subject is incomplete, the others are not."""


@dataclass(frozen=True)
class _Place:
    """Where an image lies. session: of its folder. anat: whether it is in that folder's anat/."""

    name: Name
    session: str | None
    anat: bool


@dataclass(frozen=True)
class _Subject:
    """One subject's folders, of scans and of derivatives."""

    dataset: Path
    folder: Path
    derivatives: Sequence[Path]
    wanted: Wanted

    @cached_property
    def scans(self) -> list[_Place]:
        return _placed(self.folder)

    @cached_property
    def derived(self) -> list[_Place]:
        if not (self.wanted.lesions or self.wanted.brain):
            return []
        below = (derivative / self.folder.name for derivative in self.derivatives)
        return [place for folder in below if is_folder(folder) for place in _placed(folder)]

    @cached_property
    def sessions(self) -> list[str]:
        return [path.name for path in children(self.folder) if path.name.startswith("ses-") and is_folder(path)]

    def read(self, layout: Layout) -> None:
        try:
            places = self.scans + self.derived
            sessions: list[str | None] = [*self.sessions]
        except DatasetError as error:
            raise _Unreadable(str(error)) from error
        if not sessions or any(self._own(None, modality) for modality in self.wanted.modalities):
            if sessions:
                layout.beside_sessions.append(printable(self.folder.name))
            sessions.insert(0, None)
        cases = {session: self._case(session) for session in sessions}
        layout.candidates += cases.values()
        used: set[Path | None] = set()
        for case in (candidate.case for candidate in cases.values()):
            used |= {*case.scans.values(), case.lesion_mask, case.brain_mask}
        has_brain = all(candidate.case.brain_mask for candidate in cases.values())
        for place in places:
            if place.name.path not in used:
                self._left_over(place, layout, sessions, has_brain)

    def _case(self, session: str | None) -> Candidate:
        subject = printable(self.folder.name)
        case = printable(f"{self.folder.name}_{session}" if session else self.folder.name)
        own = [place.name for place in self.scans if self._belongs(place, session)]
        scans: dict[str, Path] = {}
        for modality in self.wanted.modalities:
            if fitting := of_kind(own, modality):
                scans[modality] = choose(fitting, case, modality, self.wanted.prefer)
        masks = own + [place.name for place in self.derived if self._belongs(place, session)]
        lesions = [name for name in masks if name.is_lesion_mask] if self.wanted.lesions else []
        brains = [name for name in masks if name.is_brain_mask] if self.wanted.brain else []
        if self.wanted.brain and not brains and session is not None:
            of_subject = self.scans + self.derived
            brains = [place.name for place in of_subject if place.name.is_brain_mask and self._of_subject(place)]
        lesion_mask = choose(lesions, case, "lesion mask", self.wanted.prefer) if lesions else None
        brain_mask = choose(brains, case, "brain mask", self.wanted.prefer) if brains else None
        spaces = {"lesions": _space(lesion_mask), "brain": _space(brain_mask)}
        return Candidate(
            Case(
                case,
                subject,
                session and printable(session),
                scans,
                lesion_mask,
                brain_mask,
                named_transforms(self._transforms(session)),
                {mask: space for mask, space in spaces.items() if space not in NATIVE},
            ),
            tuple(sorted({name.kind for name in own if not (name.is_lesion_mask or name.is_brain_mask)})),
        )

    def _own(self, session: str | None, modality: str) -> list[Name]:
        return of_kind((place.name for place in self.scans if self._belongs(place, session)), modality)

    def _belongs(self, place: _Place, session: str | None) -> bool:
        """Whether an image is of this session: by its folder, by its name where a derivative has no such folder."""
        named = place.name.entities.get("ses")
        if not place.anat or self._other_subject(place):
            return False
        if place.session == session:
            return named is None or f"ses-{named}" == session or not self.sessions
        return place.session is None and f"ses-{named}" == session and place not in self.scans

    def _of_subject(self, place: _Place) -> bool:
        whole = place.session is None and "ses" not in place.name.entities
        return place.anat and whole and not self._other_subject(place)

    def _other_subject(self, place: _Place) -> bool:
        named = place.name.entities.get("sub")
        return named is not None and f"sub-{named}" != self.folder.name

    def _transforms(self, session: str | None) -> Iterable[Path]:
        for folder in (self.folder, *(derivative / self.folder.name for derivative in self.derivatives)):
            anat = folder.joinpath(*([session] if session else []), "anat")
            yield from (path for path in (children(anat) if is_folder(anat) else ()) if "_xfm." in path.name)

    def _left_over(self, place: _Place, layout: Layout, sessions: Sequence[str | None], has_brain: bool) -> None:
        """Note an image that no case uses: by name where one should, as one of its kind where it was not asked for."""
        name, wanted = place.name, self.wanted
        is_scan = place in self.scans
        mask = "lesion mask" if name.is_lesion_mask else "brain mask" if name.is_brain_mask else name.looks_like
        asked = is_scan and name.kind.lower() in {modality.lower() for modality in wanted.modalities}
        if not asked and not (wanted.lesions if mask == "lesion mask" else wanted.brain and mask == "brain mask"):
            if is_scan and not mask:
                layout.others[name.kind] += 1
            return
        if self._other_subject(place):
            why = f"named after sub-{name.entities['sub']} in the folder of {self.folder.name}"
        elif not name.is_readable:
            why = f"of the format {name.ending}, expected {' or '.join(readable_endings())}"
        elif not place.anat:
            why = "not in a folder anat"
        elif name.looks_like and not asked:
            if mask == "brain mask" and has_brain:
                return
            ending = LESIONS if mask == "lesion mask" else "desc-brain_mask"
            why = f"by the name perhaps a {mask}, expected *_{ending}.nii.gz"
        elif any(self._belongs(place, session) for session in sessions) or (mask == "brain mask" and has_brain):
            why = "another file was chosen"
        elif place.session is None:
            why = f"{'a ' + mask if mask else 'a scan'} of no session or of another one than its folder"
        else:
            why = "of another session than its folder, or of one without scans"
        layout.unused.append((_relative(name.path, self.dataset), printable(why)))


def _space(mask: Path | None) -> str:
    """What a mask's name says of its space; empty where it says nothing."""
    return Name(mask).entities.get("space", "") if mask else ""


def _placed(folder: Path) -> list[_Place]:
    """The images of a subject's folder, and where in it they lie."""
    found = []
    for path in images(folder):
        parts = path.relative_to(folder).parts[:-1]
        session = parts[0] if parts and parts[0].startswith("ses-") else None
        found.append(_Place(Name(path), session, parts[1 if session else 0 :] == ("anat",)))
    return found


def _drawn(folder: Path) -> list[Path]:
    """The folders of derivatives/, without those of our own lesion maps: a prediction is never taken for a truth."""
    if not is_folder(folder / "derivatives"):
        return []
    found = [path for path in children(folder / "derivatives") if is_folder(path)]
    return [path for path in found if not path.name.startswith(PREDICTED) and not _by_us(path)]


def _by_us(derivative: Path) -> bool:
    makers = _description(derivative).get("GeneratedBy")
    return isinstance(makers, list) and any(isinstance(one, dict) and one.get("Name") == MAKER for one in makers)


def _description(folder: Path) -> dict[str, Any]:
    """dataset_description.json; empty where there is none, or where it cannot be read, which is logged."""
    path = folder / "dataset_description.json"
    if not path.exists():
        return {}
    try:
        document: Any = read_json(path, what="BIDS description", remedy="the scans are read without it")
    except DataError as error:
        log.warning("%s", error)
        return {}
    return document if isinstance(document, dict) else {}


def _empty(subject: str, problem: str) -> Candidate:
    name = printable(subject)
    return Candidate(Case(name, name, None, {}, None, None), (), (problem,))


def _relative(path: Path, folder: Path) -> str:
    return printable_path(path.relative_to(folder))
