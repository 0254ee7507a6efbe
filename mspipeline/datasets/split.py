"""Which case is in which subset: dealt by subject, never by slice or by session, from a seed.

The order of subjects is that of SHA-256("seed:subject"), so it depends on the seed and each subject's own name alone:
a subject added to a dataset does not reorder the others.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict

from mspipeline.config import SplitSettings, Strict, read_config
from mspipeline.errors import ConfigError, nearest
from mspipeline.files import sha256_data

Subset = Literal["train", "validation", "test"]
SUBSETS: tuple[Subset, ...] = ("train", "validation", "test")


class Split(Strict):
    """Case ids of each subset, sorted. seed: null where a file named the cases."""

    seed: int | None
    train: tuple[str, ...]
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    def cases(self, subset: Subset) -> tuple[str, ...]:
        """The case ids of one subset."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[subset]

    @property
    def hash(self) -> str:
        """SHA-256 of who is where; the seed that led to it does not matter."""
        return sha256_data({subset: sorted(self.cases(subset)) for subset in SUBSETS})


class SplitFile(Strict):
    """A split that a user wrote: `train = ["sub-01", ...]`, `validation = [...]`, `test = [...]`."""

    model_config = ConfigDict(str_strip_whitespace=True)
    train: tuple[str, ...]
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()


def make_split(subject_of: Mapping[str, str], settings: SplitSettings) -> Split:
    """Deal cases to subsets, or take the deal from `settings.file`.

    subject_of: case id -> subject; the cases of one subject stay together.
    Of n subjects, validation takes max(1, round(share n)) where its share is above 0 and n >= 2, test likewise where
    n >= 3, and train the rest: a single subject is trained on.
    Raises ConfigError where nothing would be left to train on.
    """
    if settings.file is not None:
        return read_split(settings.file, subject_of)
    subjects = sorted(set(subject_of.values()), key=lambda subject: (_rank(settings.seed, subject), subject))
    n = len(subjects)
    validation = max(1, round(settings.validation * n)) if settings.validation > 0 and n >= 2 else 0
    test = max(1, round(settings.test * n)) if settings.test > 0 and n >= 3 else 0
    if n - validation - test < 1:
        raise ConfigError(
            f"split: of {n} subjects {validation} go to validation and {test} to test, none is left to train on; "
            f"lower the shares (validation {settings.validation:g}, test {settings.test:g})"
        )
    subset_of: dict[str, Subset] = {}
    for place, subject in enumerate(subjects):
        subset_of[subject] = "validation" if place < validation else "test" if place < validation + test else "train"
    dealt: dict[Subset, list[str]] = {subset: [] for subset in SUBSETS}
    for case in sorted(subject_of):
        dealt[subset_of[subject_of[case]]].append(case)
    return Split(
        seed=settings.seed,
        train=tuple(dealt["train"]),
        validation=tuple(dealt["validation"]),
        test=tuple(dealt["test"]),
    )


def read_split(path: Path, subject_of: Mapping[str, str]) -> Split:
    """The split in a TOML or JSON file, checked against the cases.

    Raises ConfigError where the file names an unknown case, names one twice, leaves one out, has no case to train on,
    or puts the sessions of one subject into two subsets.
    """
    file = read_config(path, SplitFile)
    named = [*file.train, *file.validation, *file.test]
    if unknown := sorted(set(named) - set(subject_of)):
        raise ConfigError(
            f"{path}: no such case {unknown[0]!r} in the dataset; {nearest(unknown[0], list(subject_of))}"
        )
    if twice := sorted(case for case, count in Counter(named).items() if count > 1):
        raise ConfigError(f"{path}: named more than once: {', '.join(twice)}; each case belongs to one subset")
    if missing := sorted(set(subject_of) - set(named)):
        raise ConfigError(f"{path}: in the dataset but in no subset: {', '.join(missing)}; name each case once")
    if not file.train:
        raise ConfigError(f"{path}: train is empty, expected at least one case")
    subsets_of: dict[str, set[str]] = {}
    for subset, cases in (("train", file.train), ("validation", file.validation), ("test", file.test)):
        for case in cases:
            subsets_of.setdefault(subject_of[case], set()).add(subset)
    if torn := sorted(subject for subject, subsets in subsets_of.items() if len(subsets) > 1):
        where = " and ".join(sorted(subsets_of[torn[0]]))
        raise ConfigError(f"{path}: the sessions of {torn[0]} are in {where}; keep those of one subject in one subset")
    return Split(
        seed=None,
        train=tuple(sorted(file.train)),
        validation=tuple(sorted(file.validation)),
        test=tuple(sorted(file.test)),
    )


def _rank(seed: int, subject: str) -> str:
    return hashlib.sha256(f"{seed}:{subject}".encode()).hexdigest()
