"""A case: the files of one subject at one session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mspipeline.datasets.transforms import Route, Transform, routes


@dataclass(frozen=True)
class Case:
    """One subject at one session. id: "sub-01" or "sub-01_ses-02". scans: modality -> file, those asked for.

    transforms: between the spaces of its files. mask_spaces: "lesions", "brain" -> space, where a mask's name says it.
    """

    id: str
    subject: str
    session: str | None
    scans: Mapping[str, Path]
    lesion_mask: Path | None
    brain_mask: Path | None
    transforms: tuple[Transform, ...] = ()
    mask_spaces: Mapping[str, str] = field(default_factory=dict)

    def routes(self, reference: str | None) -> dict[str, Route]:
        """Modality, "lesions" or "brain" -> the transforms that lead to it from a modality's space, where there are.

        Empty where `reference` is None.
        """
        if reference is None:
            return {}
        return routes(self.transforms, reference, {**{name: name for name in self.scans}, **self.mask_spaces})
