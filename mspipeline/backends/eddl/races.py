"""Where EDDL 1.1b lets threads add to one number at once, without a lock, which loses some of what they add.

Its loops are dealt to threads in equal runs of neighbouring iterations (OpenMP's static schedule). Sums are safe where
no run ends inside what one sum takes.
"""

from __future__ import annotations

import math

STATISTICS_BLOCK = 256
"""Values of one image that batch normalisation deals to a thread at a time."""
MOST_CHANNELS = 64
"""Up to here, and up to one a thread, channels may be repeated to keep threads apart; larger layers up to fourfold."""


def threads_meet(iterations: int, threads: int, unit: int) -> bool:
    """Whether `unit` neighbouring iterations, counted from the first, are dealt to more than one thread.

    The first (iterations mod threads) runs are one longer.

    >>> threads_meet(8, 2, 4), threads_meet(10, 2, 2), threads_meet(10, 1, 3)
    (False, True, False)
    """
    each, rest = divmod(iterations, threads)
    starts = (thread * each + min(thread, rest) for thread in range(1, threads))
    return any(start % unit for start in starts if 0 < start < iterations)


def copies_apart(channels: int, voxels: int, threads: int) -> int | None:
    """How many times a batch normalisation's channels must stand side by side so that no two threads share one.

    None where more would be needed than is worth it. One channel of 64 x 64 needs a copy for each thread:

    >>> copies_apart(1, 64 * 64, 2), copies_apart(16, 64 * 64, 2), copies_apart(1, 37 * 41, 2)
    (2, 1, None)
    """
    most = max(4 * channels, MOST_CHANNELS, threads)
    unit = voxels // math.gcd(voxels, STATISTICS_BLOCK)
    for copies in range(1, most // channels + 1):
        blocks = -(-channels * copies * voxels // STATISTICS_BLOCK)
        if not threads_meet(blocks, threads, unit):
            return copies
    return None


def upsampling_is_safe(channels: int, rows: int, threads: int) -> bool:
    """Whether the slopes behind a 2-D upsampling are safe for any number of images. rows: of its input.

    >>> upsampling_is_safe(16, 32, 2), upsampling_is_safe(3, 7, 2)
    (True, False)
    """
    return channels * rows % threads == 0
