"""Every score of one label in a case in one call: a row of the table `cases` and rows of the table `lesions`."""

from __future__ import annotations

import math

from mspipeline.errors import ConfigError
from mspipeline.metrics.case_masks import CaseMasks
from mspipeline.metrics.lesion import LesionRow, rows_of
from mspipeline.metrics.scores import SCORES, Score

Scores = dict[str, float | None]
"""By name. What is undefined is NaN; a count that was not made is None."""


def score_case(masks: CaseMasks, *, count_components: bool = True) -> tuple[Scores, list[LesionRow]]:
    """The scores of one label in one case by name, in the order of `SCORES`, and a row for each of its 6-connected
    components.

    masks: where the label is, and where it is predicted. count_components: whether its components are things to count,
    as lesions are; where they are not, there are no rows, and scores of components are NaN, their counts None.
    Counts are int, all else float; what is undefined is NaN.
    Raises ValueError where a probability is NaN, ConfigError where the score of another package fails.
    """
    scores = {name: _value(name, score, masks, count_components) for name, score in SCORES.working().items()}
    if not count_components:
        return scores, []
    return scores, rows_of(masks.faces, masks.detection, voxel_mm3=masks.voxel_mm3, affine_ras=masks.affine_ras)


def _value(name: str, score: Score, masks: CaseMasks, count_components: bool) -> float | None:
    if score.counts_components and not count_components:
        return None if score.is_count else math.nan
    try:
        value = score.compute(masks)
        return int(value) if score.is_count else float(value)
    except Exception as error:
        if name in SCORES.built_in:
            raise
        words = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"score {name!r} of another package failed ({words}); repair the package, or uninstall it"
        ) from error
