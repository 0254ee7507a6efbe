"""Every score of one case in one call: the row of the table `cases` and the rows of the table `lesions`."""

from __future__ import annotations

from mspipeline.metrics.case_masks import CaseMasks
from mspipeline.metrics.lesion import LesionRow, rows_of
from mspipeline.metrics.scores import SCORES


def score_case(masks: CaseMasks) -> tuple[dict[str, float], list[LesionRow]]:
    """The scores of one case by name, in the order of `SCORES`, and a row for each of its 6-connected lesions.

    Counts are int, all else float; what is undefined is NaN.
    Raises ValueError where a probability is NaN.
    """
    scores = {
        name: int(value) if score.is_count else float(value)
        for name, score in SCORES.working().items()
        for value in [score.compute(masks)]
    }
    return scores, rows_of(masks.faces, masks.detection, voxel_mm3=masks.voxel_mm3, affine_ras=masks.affine_ras)
