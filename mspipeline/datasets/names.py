"""File names of BIDS: entities in any order, suffix, ending; and which of several files of one kind is meant.

sub-01_ses-02_space-T1w_label-lesion_desc-consensus_mask.nii.gz    entity-value pairs, then the suffix "mask"

Upper and lower case of suffixes, labels and endings do not matter: `_flair.nii.gz` and `_T1W.NII` are found. Two files
whose names differ in that alone are two files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mspipeline.datasets.listing import image_ending
from mspipeline.errors import DatasetError
from mspipeline.images.registry import readable_ending

LESION_LABELS = {"lesion", "l"}
"""`label-lesion` as most datasets have it, `label-L` as BIDS's table of common labels has it."""
NATIVE = {"", "orig"}
"""Values of `space-` that mean the scan's own."""


@dataclass(frozen=True)
class Name:
    """An image by its name."""

    path: Path

    @cached_property
    def stem(self) -> str:
        return self.path.name.removesuffix(image_ending(self.path.name))

    @cached_property
    def ending(self) -> str:
        """In lower case, with its dot: ".nii.gz"."""
        return self.path.name[len(self.stem) :].lower()

    @cached_property
    def suffix(self) -> str:
        return self.stem.rpartition("_")[2]

    @cached_property
    def entities(self) -> dict[str, str]:
        pairs = (piece.partition("-") for piece in self.stem.split("_")[:-1])
        return {key.lower(): value for key, dash, value in pairs if dash}

    @property
    def is_readable(self) -> bool:
        """Whether a format reads it (`images.registry`)."""
        return bool(readable_ending(self.path.name))

    @property
    def kind(self) -> str:
        """The suffix; a scan with a contrast agent (entity `ce-`) is another modality than one without."""
        return f"{self.suffix} (contrast-enhanced)" if "ce" in self.entities else self.suffix

    @property
    def is_lesion_mask(self) -> bool:
        labelled = self.entities.get("label", "").lower() in LESION_LABELS
        return labelled and self.suffix.lower() in {"mask", "roi"} and self.is_readable

    @property
    def is_brain_mask(self) -> bool:
        """`desc-brain_mask` or `label-brain_mask`; a lesion mask of the brain is none."""
        named = "brain" in {self.entities.get(key, "").lower() for key in ("label", "desc")}
        return named and self.suffix.lower() == "mask" and not self.is_lesion_mask and self.is_readable

    @property
    def looks_like(self) -> str:
        """ "lesion mask" or "brain mask" where the name hints at it and is not BIDS's; or empty."""
        text = self.stem.lower()
        if self.is_lesion_mask or self.is_brain_mask or not self.is_readable:
            return ""
        if "lesion" in text:
            return "lesion mask"
        return "brain mask" if "brain" in text and "mask" in text else ""

    @property
    def marks(self) -> set[str]:
        """What `prefer` may name: entities, the ending, the folder of derivatives."""
        parts = self.path.parts
        below = {parts[place + 1] for place, part in enumerate(parts[:-1]) if part == "derivatives"}
        return {f"{key}-{value}" for key, value in self.entities.items()} | {self.ending} | below


def choose(names: Sequence[Name], case: str, what: str, prefer: Sequence[str]) -> Path:
    """The one file that is meant. Of masks, those in the scan's own space and without `desc-` come first.

    Raises DatasetError that names all that are left where it is not one, with the option that chooses.
    """
    left = list(names)
    for mark in prefer:
        left = _first(left, lambda name, mark=mark: mark in name.marks)  # type: ignore[misc]
    if what.endswith("mask"):
        left = _first(left, lambda name: name.entities.get("space", "").lower() in NATIVE)
    if what == "lesion mask":
        left = _first(left, lambda name: "desc" not in name.entities)
    if len(left) > 1:
        files = ", ".join(str(name.path) for name in left)
        common = set.intersection(*(name.marks for name in left))
        marks = sorted(set().union(*(name.marks for name in left)) - common)
        option = f"choose with --prefer {' or --prefer '.join(marks[:4])}, or " if marks else ""
        raise DatasetError(
            f"{case}: {len(left)} files for its {what} ({files}), expected one; {option}move the others away"
        )
    return left[0].path


def of_kind(names: Iterable[Name], modality: str) -> list[Name]:
    """Those with a modality's suffix, whatever its case."""
    return [name for name in names if name.is_readable and name.kind.lower() == modality.lower()]


def _first(names: list[Name], fits: Callable[[Name], bool]) -> list[Name]:
    """Those that fit, where any does; else all."""
    return [name for name in names if fits(name)] or names
