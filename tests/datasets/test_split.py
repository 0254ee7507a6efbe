"""How cases are dealt to subsets."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from mspipeline.config import SplitSettings
from mspipeline.datasets.split import Split, make_split
from mspipeline.errors import ConfigError


def subjects(count: int) -> dict[str, str]:
    return {f"sub-{number:02d}": f"sub-{number:02d}" for number in range(1, count + 1)}


def sizes(split: Split) -> tuple[int, int, int]:
    return (len(split.train), len(split.validation), len(split.test))


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1)), (4, (2, 1, 1)), (6, (4, 1, 1)), (10, (6, 2, 2)), (15, (9, 3, 3))],
)
def test_a_fifth_of_the_subjects_goes_to_validation_and_test(count: int, expected: tuple[int, int, int]) -> None:
    assert sizes(make_split(subjects(count), SplitSettings())) == expected


def test_a_share_of_zero_takes_nobody() -> None:
    assert sizes(make_split(subjects(10), SplitSettings(validation=0.3, test=0))) == (7, 3, 0)


def test_subjects_are_dealt_in_the_order_of_their_seeded_hash() -> None:
    order = sorted(subjects(5), key=lambda subject: hashlib.sha256(f"7:{subject}".encode()).hexdigest())
    split = make_split(subjects(5), SplitSettings(seed=7))
    assert (split.validation, split.test) == ((order[0],), (order[1],))
    assert split.train == tuple(sorted(order[2:]))


def test_the_order_in_which_cases_come_does_not_matter_and_the_seed_does() -> None:
    forwards = subjects(12)
    backwards = dict(reversed(forwards.items()))
    assert make_split(forwards, SplitSettings(seed=1)) == make_split(backwards, SplitSettings(seed=1))
    hashes = {make_split(forwards, SplitSettings(seed=seed)).hash for seed in range(5)}
    assert len(hashes) == 5


def test_sessions_of_one_subject_stay_together() -> None:
    cases = {f"sub-{s}_ses-{k}": f"sub-{s}" for s in range(8) for k in range(3)}
    split = make_split(cases, SplitSettings(seed=3))
    homes: dict[str, set[str]] = {subject: set() for subject in cases.values()}
    for subset in ("train", "validation", "test"):
        for case in split.cases(subset):
            homes[cases[case]].add(subset)
    assert all(len(subsets) == 1 for subsets in homes.values())
    assert sizes(split) == (12, 6, 6)


def test_shares_that_leave_nobody_to_train_on_are_refused() -> None:
    with pytest.raises(ConfigError, match="none is left to train on; lower the shares"):
        make_split(subjects(4), SplitSettings(validation=0.5, test=0.5))


def test_the_hash_is_of_who_is_where_not_of_the_seed() -> None:
    one = Split(seed=1, train=("a", "b"), validation=("c",))
    assert one.hash == Split(seed=None, train=("b", "a"), validation=("c",)).hash
    assert one.hash != Split(seed=1, train=("a", "c"), validation=("b",)).hash


SESSIONS = {"sub-1_ses-1": "sub-1", "sub-1_ses-2": "sub-1", "sub-2": "sub-2", "sub-3": "sub-3"}


def from_file(folder: Path, text: str) -> Split:
    path = folder / "split.toml"
    path.write_text(text)
    return make_split(SESSIONS, SplitSettings(file=path))


def test_a_file_deals_the_cases_as_it_says(tmp_path: Path) -> None:
    split = from_file(tmp_path, 'train = ["sub-1_ses-2", "sub-1_ses-1"]\nvalidation = ["sub-2"]\ntest = ["sub-3"]')
    assert split == Split(seed=None, train=("sub-1_ses-1", "sub-1_ses-2"), validation=("sub-2",), test=("sub-3",))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('train = ["sub-1_ses-1", "sub-1_ses-2", "sub-2", "sub-33"]', "no such case 'sub-33'.*did you mean 'sub-3'"),
        ('train = ["sub-1_ses-1", "sub-1_ses-2", "sub-2", "sub-3"]\ntest = ["sub-2"]', "named more than once: sub-2"),
        ('train = ["sub-1_ses-1", "sub-1_ses-2"]', "in no subset: sub-2, sub-3"),
        (
            'train = ["sub-1_ses-1", "sub-2", "sub-3"]\ntest = ["sub-1_ses-2"]',
            "sessions of sub-1 are in test and train",
        ),
        ('train = []\ntest = ["sub-1_ses-1", "sub-1_ses-2", "sub-2", "sub-3"]', "train is empty"),
        ('trian = ["sub-2"]', "unknown key 'trian'; did you mean 'train'"),
    ],
)
def test_a_file_that_does_not_fit_the_cases_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        from_file(tmp_path, text)
