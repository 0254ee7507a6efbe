"""Which cases a folder of scans holds, whatever its layout: BIDS, or one of the two of the open-MS repository.

Packages add layouts by the entry point group `mspipeline.datasets`: a `DatasetLayout`. Of several that recognise a
folder, the suite's own come first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from mspipeline.datasets.bids import LESIONS as LESION_MASK
from mspipeline.datasets.bids import bids_name, is_bids, read_bids
from mspipeline.datasets.case import Candidate, Case, Layout, Wanted
from mspipeline.datasets.listing import children, obstacle, printable
from mspipeline.datasets.open_ms import patients, read_open_ms
from mspipeline.datasets.open_ms_raw import CHANGED, raw_patients, read_open_ms_raw
from mspipeline.errors import DatasetError, shown
from mspipeline.labels import LESIONS, LabelSet
from mspipeline.plugins import Registry, instance_of

Masks = Literal["required", "optional"]
REASONS_SHOWN = 5


@dataclass(frozen=True)
class DatasetLayout:
    """How the files of a dataset lie.

    recognizes: whether a folder is of this layout; a quick look. read: its cases. dataset_name: what the dataset calls
    itself. looked_for: where masks are expected, for error lines; {} stands for the subject. labels: what the masks of
    a folder hold.
    """

    recognizes: Callable[[Path], bool]
    read: Callable[[Path, Wanted], Layout]
    dataset_name: Callable[[Path], str]
    looked_for: str
    labels: Callable[[Path], LabelSet] = lambda folder: LESIONS


LAYOUTS = Registry(
    "layout",
    "mspipeline.datasets",
    {
        "bids": DatasetLayout(is_bids, read_bids, bids_name, f"derivatives/*/{{}}/.../*_{LESION_MASK}.nii.gz"),
        "open-ms": DatasetLayout(
            lambda folder: bool(patients(folder)), read_open_ms, lambda _: "open-ms", "GOLD_STANDARD*"
        ),
        "open-ms-raw": DatasetLayout(
            lambda folder: bool(raw_patients(folder)), read_open_ms_raw, lambda _: "open-ms-raw", CHANGED
        ),
    },
    instance_of(DatasetLayout),
)


@dataclass(frozen=True)
class Found:
    """What a folder holds. cases: complete ones, by id. incomplete: (case id, reason) of the others.

    unused: (file, reason) of images that look as if a case should use them and none does. others: kind -> how many
    images of kinds that were not asked for. beside_sessions: cases of an anat/ beside ses-* folders. labels: what the
    masks hold.
    """

    dataset_name: str
    layout: str
    cases: tuple[Case, ...]
    incomplete: tuple[tuple[str, str], ...]
    unused: tuple[tuple[str, str], ...] = ()
    others: Mapping[str, int] = field(default_factory=dict)
    beside_sessions: tuple[str, ...] = ()
    labels: LabelSet = LESIONS

    @property
    def warnings(self) -> list[str]:
        """A line for each reason why files are not used, with their number and the first few."""
        by_reason: dict[str, list[str]] = {}
        for file, why in self.unused:
            by_reason.setdefault(why, []).append(file)
        lines = [f"{_files(len(files))} not used, {why}: {shown(files)}" for why, files in by_reason.items()]
        if self.beside_sessions:
            lines.append(f"{shown(self.beside_sessions)}: anat/ beside ses-* folders, taken for a case of its own")
        return lines

    @property
    def reasons(self) -> str:
        """The first few incomplete cases and why each is, and what files are not used: they may be those missing."""
        more = len(self.incomplete) - REASONS_SHOWN
        parts = [f"{case}: {why}" for case, why in self.incomplete[:REASONS_SHOWN]]
        return "; ".join([*parts, *([f"and {more} more"] if more > 0 else []), *self.warnings])


def find_cases(
    folder: Path,
    modalities: Sequence[str],
    *,
    masks: Masks,
    brain: bool = True,
    prefer: Sequence[str] = (),
    change_masks: bool = False,
) -> Found:
    """The cases of a dataset that have every modality and, where `masks` is "required", a lesion mask.

    masks: "optional" looks for none: a prediction needs no truth. brain, prefer, change_masks: as in `Wanted`.
    No image is opened, but every file that is chosen can be: a case with one that cannot is incomplete.
    Raises DatasetError where the folder is of no layout or cannot be read, or one case has several files of one kind
    and nothing says which is meant.
    """
    if not folder.is_dir():
        what = f"is {obstacle(folder)}" if folder.is_symlink() else "a file" if folder.exists() else "no such folder"
        raise DatasetError(f"{folder}: {what}, expected a BIDS dataset")
    wanted = Wanted(tuple(modalities), masks == "required", brain, tuple(prefer), change_masks)
    kind, found = _recognized(folder)
    layout = found.read(folder, wanted)
    _require_distinct(folder, layout.candidates)
    labels = found.labels(folder)
    cases: list[Case] = []
    incomplete: list[tuple[str, str]] = []
    for candidate in layout.candidates:
        case = candidate.case
        if problem := _problem(candidate, wanted, found.looked_for.replace("{}", case.subject)):
            incomplete.append((case.id, problem.encode("utf-8", "backslashreplace").decode()))
        else:
            cases.append(replace(case, labels=labels))
    return Found(
        found.dataset_name(folder),
        kind,
        tuple(cases),
        tuple(incomplete),
        tuple(layout.unused),
        dict(layout.others),
        tuple(layout.beside_sessions),
        labels,
    )


def _recognized(folder: Path) -> tuple[str, DatasetLayout]:
    """The first layout that a folder is of, and its name. Raises DatasetError where there is none."""
    for name, layout in LAYOUTS.working().items():
        if layout.recognizes(folder):
            return name, layout
    raise DatasetError(_neither(folder))


def _problem(candidate: Candidate, wanted: Wanted, looked_for: str) -> str:
    """Why a case is incomplete; empty where it is not."""
    case = candidate.case
    if candidate.problems:
        return "; ".join(candidate.problems)
    if missing := [modality for modality in wanted.modalities if modality not in case.scans]:
        return f"no {' and no '.join(missing)} (has {', '.join(candidate.available) or 'no scan'})"
    if wanted.lesions and case.lesion_mask is None:
        return f"no lesion mask ({looked_for})"
    chosen = {**case.scans, "lesion mask": case.lesion_mask, "brain mask": case.brain_mask}
    for what, path in chosen.items():
        if path is not None and (reason := obstacle(path)):
            return f"its {what} {path} is {reason}"
    return ""


def _require_distinct(folder: Path, candidates: Sequence[Candidate]) -> None:
    """Raises DatasetError where two folders give cases of one name: their bytes differ, their printed names do not."""
    counts = Counter(candidate.case.id for candidate in candidates)
    if twice := sorted(case for case, count in counts.items() if count > 1):
        raise DatasetError(f"{folder}: several folders give a case {', '.join(twice[:3])}; rename all but one of each")


def _files(count: int) -> str:
    return f"{count} file{'' if count == 1 else 's'}"


def _neither(folder: Path) -> str:
    names = [printable(child.name) for child in children(folder)]
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return (
        f"{folder}: not a BIDS dataset: no folder sub-*/[ses-*/]anat (nor open-MS patient folders) in it, "
        f"found {', '.join(names[:4]) + more or 'nothing'}; name the folder that holds sub-*, or make one with "
        f"`mspipeline phantom {folder}`"
    )
