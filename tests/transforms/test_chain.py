"""A chain draws by seed, epoch, case and place alone; each link has numbers of its own; what is misspelt is named."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mspipeline.errors import ConfigError
from mspipeline.transforms.chain import Chain, make_chain
from mspipeline.transforms.registry import TRANSFORMS
from tests.installed_package import importable, install

SHAPE = (6, 6, 1)
WHERE = "training.recipe.transforms"
NOISE = {"name": "gaussian_noise", "probability": 1.0, "sigma": [0.5, 0.5]}
BRIGHT = {"name": "brightness", "probability": 1.0}


def chain(*tables: dict[str, Any]) -> Chain:
    return make_chain(tables, SHAPE, where=WHERE)


def applied(chain: Chain, image: np.ndarray | None = None, **place: Any) -> np.ndarray:
    image = np.ones(SHAPE, np.float32) if image is None else image
    at = {"seed": 1, "epoch": 2, "case": "sub-01", "place": 3, **place}
    return chain(image, np.zeros(SHAPE[:2], np.uint8), **at)[0]


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[None]:
    """A package with transforms, whole and broken, is installed for this process."""
    points = ("bias = transform:Bias", "cropping = transform:Cropping", "unfinished = transform:Unfinished")
    entry_points = "\n".join(["[mspipeline.transforms]", *points, "flip = transform:Bias"])
    install(tmp_path, "transform-plugins", entry_points, "transform")
    with importable(tmp_path):
        yield


def test_a_chain_draws_the_same_again_and_other_numbers_elsewhere() -> None:
    noise = chain(NOISE)
    assert np.array_equal(applied(noise), applied(noise))
    elsewhere: list[dict[str, Any]] = [{}, {"seed": 2}, {"epoch": 3, "place": 2}, {"case": "sub-02"}, {"place": 4}]
    drawn = [applied(noise, **place) - 1 for place in elsewhere]
    for one, other in itertools.combinations(drawn, 2):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.7  # of 36 numbers: four standard deviations


def test_another_link_changes_nobodys_numbers() -> None:
    alone = applied(chain(NOISE)) - 1
    zero = np.zeros(SHAPE, np.float32)
    assert applied(chain(BRIGHT, NOISE), zero) == pytest.approx(alone, abs=1e-6)  # what brightness multiplies is 0
    assert applied(chain({"name": "flip"}, NOISE), zero) == pytest.approx(alone, abs=1e-6)
    twice = applied(chain(NOISE, NOISE), zero)
    assert not np.allclose(twice, 2 * alone, atol=0.01)  # the second of one name has other numbers than the first


def test_links_follow_each_other_in_their_order() -> None:
    half = {"name": "brightness", "probability": 1.0, "factor": [0.5, 0.5]}
    plain, first, last = (applied(chain(*links)) for links in ((NOISE,), (half, NOISE), (NOISE, half)))
    assert first == pytest.approx(plain - 0.5, abs=1e-6)
    assert last == pytest.approx(plain / 2, abs=1e-6)


def test_no_links_give_the_arrays_themselves() -> None:
    image, labels = np.ones(SHAPE, np.float32), np.zeros(SHAPE[:2])
    assert Chain()(image, labels, seed=0, epoch=0, case="a", place=0) == (image, labels)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"name": "flipp"}, "[0]: unknown transform 'flipp'; did you mean 'flip'? valid: brightness, contrast, flip"),
        ({"name": "flip", "axs": [0]}, "[0] (flip): unknown key 'axs'; did you mean 'axes'? valid: axes, probability"),
        ({"name": "flip", "axes": [2]}, "an image's spatial axes, 0 to 1; received: [2]"),
        ({"name": "flip", "axes": []}, "spatial axes, 0 to 1; received: []"),
        ({"name": "rotate90", "axes": [0, 0]}, "spatial axes, 0 to 1; received: [0, 0]"),
        ({"name": "flip", "probability": 2}, "probability: input should be less than or equal to 1; received: 2"),
        ({"name": "gamma", "probability": -1}, "probability: input should be greater than or equal to 0; received: -1"),
        ({"name": "gamma", "gamma": [0, 1]}, "gamma: expected numbers above 0; received: 0, 1"),
        (
            {"name": "contrast", "factor": [2, 1]},
            "expected two finite numbers from 0 on, the smaller one first",
        ),
        ({"name": "gaussian_noise", "sigma": [0, float("nan")]}, "sigma: expected two finite numbers"),
        ({"probability": 1}, "[0]: expected a table with the name of a transform, such as {name = 'flip'}"),
    ],
)
def test_what_is_wrong_is_one_line_with_what_is_right(table: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        chain(table)
    assert str(error.value).startswith(f"{WHERE}[0]")
    assert words in str(error.value)


@pytest.mark.usefixtures("installed")
def test_a_transform_of_a_package_is_a_link_as_any_other() -> None:
    changed = applied(chain({"name": "bias", "slope": 2}))
    assert changed[:, 0, 0] == pytest.approx([1, 1.4, 1.8, 2.2, 2.6, 3])
    with pytest.raises(ConfigError, match=r"\(bias\): unknown key 'slop'; did you mean 'slope'"):
        chain({"name": "bias", "slop": 2})


@pytest.mark.usefixtures("installed")
def test_broken_transforms_are_named_and_the_others_work() -> None:
    assert list(TRANSFORMS.working()) == [*TRANSFORMS.built_in, "bias", "cropping"]
    found = {problem.name: problem.reason for problem in TRANSFORMS.problems()}
    assert found == {
        "unfinished": "transform:Unfinished cannot be used (it lacks change)",
        "flip": "the suite has that name; choose another",
    }
    with pytest.raises(ConfigError, match="transform 'unfinished' of package transform-plugins"):
        chain({"name": "unfinished"})


@pytest.mark.usefixtures("installed")
def test_one_that_changes_a_shape_is_stopped_in_its_name() -> None:
    with pytest.raises(ConfigError) as error:
        applied(chain({"name": "cropping"}))
    assert str(error.value).startswith(
        "transform 'cropping' of another package failed (ValueError: it made (5, 6, 1) and (6, 6) of (6, 6, 1)"
    )
