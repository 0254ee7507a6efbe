"""Lesion and surface scores of a 182 x 218 x 182 mask pair with 100 lesions, against public peers.

Run as `python -m benchmarks.micro.lesion_metrics [--json]`. MedPy and google-deepmind's surface-distance are measured
where they can be imported; they are no dependency (`pip install --target FOLDER --no-deps medpy simpleitk`, then
PYTHONPATH=FOLDER). The straightforward SciPy form is always measured: whole-grid label images and distance transforms.
"""

from __future__ import annotations

import importlib
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mspipeline.benchmarks.micro.result import Result, main
from mspipeline.metrics import challenge, components, surface
from mspipeline.metrics.case import score_case
from mspipeline.metrics.case_masks import CaseMasks

BoolArray = npt.NDArray[np.bool_]
Work = Callable[[BoolArray, BoolArray], object]

SHAPE = (182, 218, 182)
SPACING_MM = (1.0, 1.0, 1.0)
LESIONS = 100
REPEATS = 5
BOUND = 5.0
LESIONS_BOUND = 2.0
"""Of matching alone, where SciPy's label images leave less to win."""


def mask_pair(lesions: int = LESIONS, seed: int = 0) -> tuple[BoolArray, BoolArray]:
    """A truth of separate balls of radius 1.5 to 5 voxels; a prediction of 8 in 10, shifted by a voxel, and 16 more."""
    random = np.random.default_rng(seed)
    truth, prediction = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    steps = np.stack(np.meshgrid(*(np.arange(25, size - 25, 13) for size in SHAPE), indexing="ij"), -1).reshape(-1, 3)
    for number, centre in enumerate(random.permutation(steps)[: 2 * lesions]):
        radius = random.uniform(1.5, 5)
        if number < lesions:
            _ball(truth, centre, radius)
        if number % 10 < 8 and number < 1.2 * lesions:
            _ball(prediction, centre + random.integers(-1, 2, 3), radius)
    return truth, prediction


def measure() -> list[Result]:
    """Medians over REPEATS, taking turns; a peer with our definitions must have our scores first."""
    truth, prediction = mask_pair()
    results = []
    jobs: list[tuple[str, Work, dict[str, Work], float]] = [
        (
            "HD, HD95, ASD twice, ASSD",
            _surface_scores,
            {"SciPy transforms of the grid": _scipy_surface, **_medpy()},
            BOUND,
        ),
        ("HD, HD95, ASD twice, surface Dice", _surface_scores, _surface_distance(), BOUND),
        (
            "lesions matched and counted",
            _lesion_scores,
            {"SciPy labels and a loop over lesions": _scipy_lesions},
            LESIONS_BOUND,
        ),
        ("all scores and lesion rows of a case", _case, {"SciPy, HD to ASSD and lesion counts": _scipy_both}, BOUND),
    ]
    for name, work, peers, bound in jobs:
        for peer, theirs in peers.items():
            _check(name, peer, work(truth, prediction), theirs(truth, prediction))
            ours_s, peer_s = _turns(partial(work, truth, prediction), partial(theirs, truth, prediction))
            detail = f"{1e3 * ours_s:.1f} ms against {1e3 * peer_s:.1f} ms, medians of {REPEATS}"
            results.append(Result(name, peer, peer_s / ours_s, bound, detail))
    return results


def _check(name: str, peer: str, ours: object, theirs: object) -> None:
    """Raise RuntimeError where a peer with our definitions (one that answers a list) has other scores."""
    if isinstance(ours, list) and isinstance(theirs, list) and not np.allclose(ours[: len(theirs)], theirs, rtol=1e-9):
        raise RuntimeError(f"{name}: {peer} has {theirs}, we have {ours}; a ratio of their times would mean nothing")


def _surface_scores(truth: BoolArray, prediction: BoolArray) -> list[float]:
    distances = surface.surface_distances(truth, prediction, spacing_mm=SPACING_MM)
    return [
        surface.hausdorff_mm(distances),
        surface.hd95_pooled_mm(distances),
        surface.asd_prediction_to_truth_mm(distances),
        surface.asd_truth_to_prediction_mm(distances),
        surface.assd_mm(distances),
        surface.surface_dice(distances, tolerance_mm=1.0),
    ]


def _lesion_scores(truth: BoolArray, prediction: BoolArray) -> list[float]:
    matching = components.match(truth, prediction, connectivity=18)
    return [challenge.ltpr(matching), challenge.lfpr(matching)]


def _case(truth: BoolArray, prediction: BoolArray) -> object:
    return score_case(CaseMasks(truth, prediction, spacing_mm=SPACING_MM, affine_ras=np.eye(4)))


def _scipy_surface(truth: BoolArray, prediction: BoolArray) -> list[float]:
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (truth, prediction)]
    to_truth, to_prediction = (np.asarray(ndimage.distance_transform_edt(~edge, SPACING_MM), float) for edge in edges)
    forward, backward = to_prediction[edges[0]], to_truth[edges[1]]
    both = np.concatenate([forward, backward])
    means = float(backward.mean()), float(forward.mean())
    return [float(both.max()), float(np.percentile(both, 95)), *means, float(both.mean())]


def _scipy_lesions(truth: BoolArray, prediction: BoolArray) -> list[float]:
    rates = []
    for mask, other in ((truth, prediction), (prediction, truth)):
        labels: Any
        labels, count = ndimage.label(mask, ndimage.generate_binary_structure(3, 2))
        hits = [
            bool((other[box] & (labels[box] == number)).any())
            for number, box in enumerate(ndimage.find_objects(labels), start=1)
            if box is not None
        ]
        rates.append(sum(hits) / count)
    return [rates[0], 1 - rates[1]]


def _scipy_both(truth: BoolArray, prediction: BoolArray) -> object:
    return _scipy_surface(truth, prediction), _scipy_lesions(truth, prediction)


def _medpy() -> dict[str, Work]:
    binary = _module("medpy.metric.binary")
    if binary is None:
        return {}
    return {
        "MedPy": lambda truth, prediction: [
            binary.hd(prediction, truth, SPACING_MM),
            binary.hd95(prediction, truth, SPACING_MM),
            binary.asd(prediction, truth, SPACING_MM),
            binary.asd(truth, prediction, SPACING_MM),
            binary.assd(prediction, truth, SPACING_MM),
        ]
    }


def _surface_distance() -> dict[str, Work]:
    peer = _module("surface_distance")
    if peer is None:
        return {}

    def scores(truth: BoolArray, prediction: BoolArray) -> object:
        distances = peer.compute_surface_distances(truth, prediction, SPACING_MM)
        return (
            peer.compute_robust_hausdorff(distances, 100),
            peer.compute_robust_hausdorff(distances, 95),
            peer.compute_average_surface_distance(distances),
            peer.compute_surface_dice_at_tolerance(distances, 1.0),
        )

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scores(*(np.pad(np.ones((2, 2, 2), bool), 2) for _ in range(2)))
    except AttributeError:  # version 0.1 of the registry uses names that NumPy 2 dropped
        return {}
    return {"surface-distance": scores}


def _module(name: str) -> Any:
    """A peer, or None where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError:
        return None


def _ball(mask: BoolArray, centre: npt.NDArray[np.int64], radius: float) -> None:
    box = tuple(slice(int(at) - 6, int(at) + 7) for at in centre)
    offsets = np.ogrid[tuple(slice(-6, 7) for _ in range(3))]
    mask[box] |= sum(axis**2 for axis in offsets) <= radius**2


def _turns(ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of both, in turns, after a round that warms caches."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPEATS + 1):
        for work, kept in zip((ours, theirs), times, strict=True):
            began = time.perf_counter()
            work()
            kept.append(time.perf_counter() - began)
    return statistics.median(times[0][1:]), statistics.median(times[1][1:])


if __name__ == "__main__":
    main(measure, __doc__.splitlines()[0])
