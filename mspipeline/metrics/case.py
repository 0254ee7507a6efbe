"""Every score of one case in one call: the row of the table `cases` and the rows of the table `lesions`."""

from __future__ import annotations

from mspipeline.errors import ConfigError
from mspipeline.metrics.case_masks import CaseMasks
from mspipeline.metrics.lesion import LesionRow, rows_of
from mspipeline.metrics.scores import SCORES, Score


def score_case(masks: CaseMasks) -> tuple[dict[str, float], list[LesionRow]]:
    """The scores of one case by name, in the order of `SCORES`, and a row for each of its 6-connected lesions.

    Counts are int, all else float; what is undefined is NaN.
    Raises ValueError where a probability is NaN, ConfigError where the score of another package fails.
    """
    scores = {name: _value(name, score, masks) for name, score in SCORES.working().items()}
    return scores, rows_of(masks.faces, masks.detection, voxel_mm3=masks.voxel_mm3, affine_ras=masks.affine_ras)


def _value(name: str, score: Score, masks: CaseMasks) -> float:
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
