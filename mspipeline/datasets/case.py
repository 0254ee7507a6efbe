"""A case: the files of one subject at one session; and what a layout finds in a folder of scans."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mspipeline.datasets.transforms import Transform, chain_between, chains_from
from mspipeline.grid import TransformChain
from mspipeline.labels import LESIONS, LabelSet

LOCAL_SPACES = frozenset({"FLAIR", "T1w", "T2w", "PDw", "T2star", "orig", "individual", "scanner", "native"})
"""Spaces of the subject itself, whose world coordinates its headers share; any other is a template's or a study's."""
_SPACE = re.compile(r"_space-([A-Za-z0-9]+)")


@dataclass(frozen=True)
class Case:
    """One subject at one session. id: "sub-01" or "sub-01_ses-02". scans: modality -> file, those asked for.

    lesion_mask: of lesions, or of whatever `labels` has. transforms: between the spaces of its files. mask_spaces:
    "lesions", "brain" -> space, where a mask's name says it. labels: what its mask can hold.
    """

    id: str
    subject: str
    session: str | None
    scans: Mapping[str, Path]
    lesion_mask: Path | None
    brain_mask: Path | None
    transforms: tuple[Transform, ...] = ()
    mask_spaces: Mapping[str, str] = field(default_factory=dict)
    labels: LabelSet = LESIONS

    def transform_chains(self, reference: str | None) -> dict[str, TransformChain]:
        """Modality, "lesions" or "brain" -> the transforms that lead to it from a modality's space, where there are.

        Empty where `reference` is None.
        """
        if reference is None:
            return {}
        spaces = self.spaces
        return chains_from(self.transforms, spaces.get(reference, reference), spaces)

    @property
    def spaces(self) -> dict[str, str]:
        """Each file's space: what its name declares (`space-`), else of a scan its modality."""
        declared = {name: found[1] for name, path in self.scans.items() if (found := _SPACE.search(path.name))}
        return {**{name: name for name in self.scans}, **declared, **self.mask_spaces}

    def strays(self, reference: str) -> dict[str, str]:
        """Files in a space to which nothing leads from the reference's -> that space; headers do not lead there."""
        spaces = self.spaces
        here = spaces.get(reference, reference)
        local = LOCAL_SPACES | set(self.scans)
        return {
            name: space
            for name, space in spaces.items()
            if space != here and not {space, here} <= local and chain_between(self.transforms, here, space) is None
        }


@dataclass(frozen=True)
class Candidate:
    """A case, whether complete or not. available: modalities that it has. problems: why files of it cannot be used."""

    case: Case
    available: tuple[str, ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """What is looked for. modalities: in the recipe's order. lesions, brain: whether such masks are.

    prefer: of several files of one kind, those whose name has this entity ("run-1", "desc-consensus"), that lie in this
    folder of derivatives, or have this ending (".nii.gz"); the first that fits any is applied first.
    change_masks: take open-MS's masks of changed lesions.
    """

    modalities: tuple[str, ...]
    lesions: bool = True
    brain: bool = True
    prefer: tuple[str, ...] = ()
    change_masks: bool = False


@dataclass
class Layout:
    """What a layout makes of a folder, filled while it is read.

    unused: (file, relative to the dataset; why no case uses it) of those that look as if one should. others: kind ->
    how many images of kinds that were not asked for. beside_sessions: cases of an anat/ beside ses-* folders.
    """

    candidates: list[Candidate] = field(default_factory=list)
    unused: list[tuple[str, str]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    beside_sessions: list[str] = field(default_factory=list)
