"""The scores that a page shows: those of the suite, and those that packages added to the table that is read."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from mspipeline.metrics.scores import SCORES
from mspipeline.tables.schema import added_scores


@dataclass(frozen=True)
class ScoreColumn:
    """A score as a page shows it; the fields are those of `metrics.scores.Score`."""

    name: str
    unit: str
    heading: str
    row: str
    format: str
    definition: str


def score_columns(cases: pa.Schema) -> list[ScoreColumn]:
    """Every score of a table of cases that has a heading or a row, in the table's order.

    What a package added is described by the table itself: the package need not be installed where the page is made.
    """
    own = [
        ScoreColumn(score.name, score.unit, score.heading, score.row, score.format, score.definition)
        for score in SCORES.built_in.values()
        if score.heading or score.row
    ]
    added = []
    for field in added_scores(cases):
        words = {key.decode(): value.decode() for key, value in field.metadata.items()}
        added.append(
            ScoreColumn(field.name, words["unit"], words["heading"], words["row"], words["format"], words["score"])
        )
    return [*own, *added]
