from __future__ import annotations

import pytest

from mspipeline.training.collapse import Collapse, Predictions, To, predicted_everywhere

NOTHING: To = "nothing"
Epochs = list[To | None]


def seen(predicted: Epochs, epochs: int = 20) -> list[Collapse | None]:
    """What is said after each epoch of a training of so many, the last one given being its last where it is that."""
    predictions, said = Predictions(), []
    for epoch, to in enumerate(predicted, start=1):
        predictions = predictions.after(epoch, to)
        said.append(predictions.collapse(epoch, epochs, over=epoch == epochs))
    return said


def test_a_training_that_found_something_is_called_collapsed_at_the_third_empty_epoch() -> None:
    said = seen([None] * 13 + [NOTHING] * 7)
    assert said[:15] == [None] * 15
    assert said[15:] == [Collapse("nothing", 14)] * 5


def test_empty_epochs_at_the_beginning_are_no_collapse() -> None:
    assert seen([NOTHING] * 9 + [None] * 11) == [None] * 20


def test_a_training_that_never_finds_anything_is_called_collapsed_after_ten_epochs() -> None:
    assert seen([NOTHING] * 12) == [None] * 9 + [Collapse("nothing", 1)] * 3


def test_of_a_long_training_a_quarter_may_be_empty_first() -> None:
    assert seen([NOTHING] * 32, epochs=128) == [None] * 31 + [Collapse("nothing", 1)]


def test_a_short_training_that_ends_empty_is_named_at_its_end() -> None:
    assert seen([NOTHING] * 4, epochs=4) == [None, None, None, Collapse("nothing", 1)]
    assert seen([NOTHING] * 2, epochs=2) == [None, None]  # too few to tell


def test_a_training_that_recovers_is_not_collapsed_any_more_and_may_collapse_again() -> None:
    said = seen([None, NOTHING, NOTHING, NOTHING, None, "everything", "everything", "everything"])
    assert said == [None, None, None, Collapse("nothing", 2), None, None, None, Collapse("everything", 6)]


def test_nothing_and_everything_are_two_series() -> None:
    assert seen([None, NOTHING, NOTHING, "everything", "everything"]) == [None] * 5


@pytest.mark.parametrize(
    ("truth", "predicted", "voxels", "expected"),
    [
        (5, 0, 100, "nothing"),
        (5, 100, 100, "everything"),
        (5, 1, 100, None),
        (0, 0, 100, None),  # nothing is there to be found
        (0, 100, 100, "everything"),
        (100, 100, 100, None),
        (100, 0, 100, "nothing"),
    ],
)
def test_what_is_predicted_everywhere_counts_where_it_is_not_the_truth(
    truth: int, predicted: int, voxels: int, expected: To | None
) -> None:
    assert predicted_everywhere(truth, predicted, voxels) == expected
