"""A cascade of networks over patches: each stage looks at the voxels that the one before it let pass.

Valverde et al. 2017: the first stage sees every candidate and finds nearly all lesions, with many false ones; the
second was trained on these and decides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mspipeline.backends.base import Backend
from mspipeline.channels import Channels
from mspipeline.labels import LESION
from mspipeline.patches.candidates import Coordinates
from mspipeline.patches.gather import gather
from mspipeline.volume import FloatArray

log = logging.getLogger(__name__)

Report = Callable[[int, int, int], None]
"""Called with (stage, patches done, patches in all)."""


class VoxelPredictor(Protocol):
    """A network that answers at voxels (`voxelwise.VoxelNetwork`)."""

    def predict(
        self,
        image: FloatArray,
        centres: Coordinates,
        *,
        batch_size: int,
        threads: int = 1,
        report: Callable[[int], None] | None = None,
    ) -> npt.NDArray[np.float32]: ...


def predict_patches(
    backend: Backend,
    channels: Channels,
    image: FloatArray,
    centres: Coordinates,
    size: tuple[int, int, int],
    *,
    batch_size: int,
    threads: int = 1,
    report: Callable[[int], None] | None = None,
) -> npt.NDArray[np.float32]:
    """The probability of lesion at voxels, each from the patch around it.

    channels: of the network in the backend. image: (X, Y, Z, C), C-contiguous. centres: (N, 3), N may be 0. size: of a
    patch. report: called with the number of patches done, a batch at a time. Returns (N,) in [0, 1]. Raises ShapeError
    where image or centres do not fit.
    """
    probability = np.empty(len(centres), np.float32)
    patches = np.empty((min(batch_size, len(centres)), *size, image.shape[3]), np.float32)
    for first in range(0, len(centres), batch_size):
        places = centres[first : first + batch_size]
        batch = gather(image, places, size, out=patches[: len(places)], threads=threads)
        probability[first : first + len(places)] = channels.probability(LESION, backend.predict(batch))
        if report is not None:
            report(first + len(places))
    return probability


def predict_cascade(
    stages: Sequence[VoxelPredictor],
    image: FloatArray,
    candidates: Coordinates,
    *,
    pass_above: float,
    batch_size: int,
    threads: int = 1,
    report: Report | None = None,
) -> FloatArray:
    """The map of the last stage's probabilities; 0 where there is no candidate, or an earlier stage let none pass.

    image: (X, Y, Z, C), C-contiguous. candidates: (N, 3). pass_above: a voxel goes on to the next stage where its
    probability is above this. Returns (X, Y, Z) in [0, 1]. Raises as `predict_patches`.
    """
    places = candidates
    scores = np.zeros(len(places), np.float32)
    for number, network in enumerate(stages, start=1):
        if number > 1:
            places = places[scores > np.float32(pass_above)]

        def done(patches: int, stage: int = number, total: int = len(places)) -> None:
            if report is not None:
                report(stage, patches, total)

        scores = network.predict(image, places, batch_size=batch_size, threads=threads, report=done)
        log.info("stage done stage=%d patches=%d", number, len(places))
    probability = np.zeros(image.shape[:3], np.float32)
    probability[places[:, 0], places[:, 1], places[:, 2]] = scores
    return probability
