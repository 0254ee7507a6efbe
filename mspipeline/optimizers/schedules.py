"""Schedules: a step's learning rate, which follows from its number alone, so that a resumed training has the same."""

from __future__ import annotations


def warmed_up(rate: float, step: int, warmup_steps: int) -> float:
    """The rate of a step, counted from 0: it grows in equal parts to `rate` in so many steps, and stays there.

    The first steps of Adam are as long as the rate whatever the gradient, while its moments know a few batches only
    (Ma & Yarats 2021). 0 warm-up steps: `rate` from the first on.

    >>> [warmed_up(0.5, step, 4) for step in range(6)]
    [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
    """
    return rate * (step + 1) / warmup_steps if step + 1 < warmup_steps else rate
