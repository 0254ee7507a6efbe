"""Schedules: a step's learning rate, which follows from its number alone, so that a resumed training has the same."""

from __future__ import annotations

import math
from typing import Literal

ScheduleName = Literal["constant", "cosine", "poly"]
POLY_POWER = 0.9


def learning_rate(
    rate: float, step: int, steps: int, *, warmup_steps: int = 0, schedule: ScheduleName = "constant"
) -> float:
    """The rate of a step, counted from 0, of a training of so many.

    In the warm-up it grows in equal parts to `rate`: the first steps of Adam are as long as the rate whatever the
    gradient, while its moments know a few batches only (Ma & Yarats 2021). After it, of a share x of the steps that are
    left: "constant" keeps `rate`; "cosine" is rate (1 + cos(pi x)) / 2 (Loshchilov & Hutter 2017); "poly" is
    rate (1 - x)^0.9, as nnU-Net has it by epochs. No step has a rate of 0.

    >>> [learning_rate(0.5, step, 8, warmup_steps=4) for step in range(6)]
    [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
    >>> [round(learning_rate(1.0, step, 4, schedule="cosine"), 3) for step in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """
    if step + 1 < warmup_steps:
        return rate * (step + 1) / warmup_steps
    begins = max(warmup_steps - 1, 0)
    share = min((step - begins) / max(steps - begins, 1), 1.0)
    if schedule == "cosine":
        return rate * (1 + math.cos(math.pi * share)) / 2
    return rate * (1 - share) ** POLY_POWER if schedule == "poly" else rate
