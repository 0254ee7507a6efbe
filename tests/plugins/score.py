"""A score of another package: how much volume was predicted for each ml that is there."""

from __future__ import annotations

import math

from mspipeline.metrics.case_masks import CaseMasks
from mspipeline.metrics.scores import Score


def _volume_ratio(masks: CaseMasks) -> float:
    true = int(masks.truth.sum())
    return int(masks.prediction.sum()) / true if true else math.nan


VOLUME_RATIO = Score(
    "volume_ratio", _volume_ratio, "Predicted volume / true volume.", heading="Volume ratio", row="volume ratio"
)
SECONDS = Score("seconds", _volume_ratio, "A name that the table of cases has for something else.")
FAILING = Score("failing", lambda masks: 1 / 0, "What a package may do wrong when its score is computed.")
