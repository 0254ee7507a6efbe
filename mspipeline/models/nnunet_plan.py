"""What nnU-Net decides from a dataset before any training: spacing, patch, batch size, normalisation, low resolution.

Isensee et al. 2021, "nnU-Net: a self-configuring method", as in nnU-Net v2.8.1 (`ExperimentPlanner`, 3d_fullres and
3d_lowres). Pure functions: a fingerprint of the dataset goes in, a plan comes out. From the target spacing on, axes are
in the plan's order, the coarsest first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mspipeline.errors import ConfigError, ShapeError
from mspipeline.models.nnunet_topology import LEAST_EDGE, Size, Spacing, Topology, size_of, topology

ANISOTROPY = 3
"""Ratio of spacings from which an axis counts as much coarser than the others."""
REFERENCE_VALUES, REFERENCE_GB, REFERENCE_BATCH = 560_000_000, 8, 2
"""Feature-map values that fit, at this batch size, into a GPU of this memory: measured by nnU-Net's authors."""
START_VOXELS = 256**3
MOST_OF_DATASET = 0.05
"""Share of all voxels that a batch may hold at most."""
LOWRES_SHARE = 0.25
"""Below this share of the median image in a patch, a second network at lower resolution is planned."""
LOWRES_STEP = 1.03
MASKED_SHARE = 0.75


@dataclass(frozen=True)
class Fingerprint:
    """A dataset as the planner sees it, case by case.

    shapes: voxels after cropping to the non-zero box. spacings_mm: along the same axes. cropped_shares: voxels after
    over voxels before cropping, in (0, 1]. classes: with the background.
    Raises ShapeError where the three do not tell of the same cases, or where a size or spacing is not positive.
    """

    shapes: tuple[Size, ...]
    spacings_mm: tuple[Spacing, ...]
    cropped_shares: tuple[float, ...]
    classes: int

    def __post_init__(self) -> None:
        counts = {len(self.shapes), len(self.spacings_mm), len(self.cropped_shares)}
        if len(counts) != 1 or not self.shapes:
            raise ShapeError(
                f"fingerprint: {len(self.shapes)} shapes, {len(self.spacings_mm)} spacings and "
                f"{len(self.cropped_shares)} cropped shares; needs one of each for every case, and one case at least"
            )
        for number, (shape, spacing) in enumerate(zip(self.shapes, self.spacings_mm, strict=True), 1):
            if min(*shape, *spacing) <= 0:
                raise ShapeError(
                    f"fingerprint: case {number} has shape {shape} and spacing {spacing} mm; all must be positive"
                )


@dataclass(frozen=True)
class NnunetPlan:
    """One network and its data. median_shape: voxels of the median case at this spacing."""

    spacing_mm: Spacing
    median_shape: Spacing
    topology: Topology
    batch_size: int
    batch_dice: bool

    @property
    def patch(self) -> Size:
        return self.topology.patch

    @property
    def patch_share(self) -> float:
        """Voxels of a patch over those of the median image."""
        return math.prod(self.patch) / math.prod(self.median_shape)


@dataclass(frozen=True)
class Plans:
    """axes: the scan's axis that stands at each place of the plan. lowres: None where fullres alone sees enough.

    masked_normalisation: z-scores are taken inside the non-zero mask.
    """

    axes: Size
    fullres: NnunetPlan
    lowres: NnunetPlan | None
    masked_normalisation: bool


def plan(fingerprint: Fingerprint, memory_gb: float = REFERENCE_GB) -> Plans:
    """The plans for a dataset and a GPU of this memory. Raises ConfigError where not even the least patch fits."""
    target = target_spacing(fingerprint)
    coarsest = int(np.argmax(target))
    first, second, third = coarsest, *(axis for axis in range(3) if axis != coarsest)
    axes = (first, second, third)
    spacing = _triple([target[axis] for axis in axes])
    shapes = [
        [round(shape[axis] * own[axis] / target[axis]) for axis in axes]
        for shape, own in zip(fingerprint.shapes, fingerprint.spacings_mm, strict=True)
    ]
    median = _triple(np.median(shapes, axis=0))
    cases = len(shapes)
    fullres = plan_at(spacing, median, fingerprint.classes, cases * math.prod(median), memory_gb)
    lowres = _lowres(fullres, fingerprint.classes, cases, memory_gb)
    masked = float(np.median(fingerprint.cropped_shares)) < MASKED_SHARE
    return Plans(axes, replace(fullres, batch_dice=lowres is not None), lowres, masked)


def target_spacing(fingerprint: Fingerprint) -> Spacing:
    """Median spacing in mm, in the scans' order of axes.

    An axis that is more than three times coarser and shorter than the others takes the 10th percentile instead, but
    stays the coarsest.
    """
    spacings = np.array(fingerprint.spacings_mm)
    target, size = np.median(spacings, axis=0), np.median(np.array(fingerprint.shapes), axis=0)
    worst = int(np.argmax(target))
    others = np.delete(target, worst)
    if target[worst] > ANISOTROPY * others.max() and size[worst] * ANISOTROPY < np.delete(size, worst).min():
        finer = np.percentile(spacings[:, worst], 10)
        target[worst] = finer if finer >= others.max() else others.max() + 1e-5
    return _triple(target)


def plan_at(
    spacing_mm: Spacing, median_shape: Spacing, classes: int, dataset_voxels: float, memory_gb: float
) -> NnunetPlan:
    """Patch, network and batch size at one spacing.

    The patch starts as a cube in mm of 256^3 voxels, is cut to the median image, and loses voxels along the axis that
    covers most of it (of equal ones the last) until a batch of two fits. Left-over memory goes into the batch.
    dataset_voxels: of all cases together, at this spacing. Raises ConfigError where no patch fits.
    """
    budget = REFERENCE_VALUES * memory_gb / REFERENCE_GB
    fineness = 1 / np.array(spacing_mm)
    start = np.round(fineness * (START_VOXELS / fineness.prod()) ** (1 / 3))
    net = topology(spacing_mm, size_of(np.ceil(np.minimum(start, median_shape))))
    while net.feature_map_values(classes) > budget:
        covered = [extent / whole for extent, whole in zip(net.patch, median_shape, strict=True)]
        axis = max(range(3), key=lambda each: (covered[each], each))
        # The step is that of the smaller patch: 256 loses 32 and becomes 224, although 256 itself divides by 64.
        step = topology(spacing_mm, _less(net.patch, axis, net.divisor[axis])).divisor[axis]
        if net.patch[axis] - step < LEAST_EDGE:
            least = net.feature_map_values(classes) / REFERENCE_VALUES * REFERENCE_GB
            raise ConfigError(
                f"nnU-Net plan: even a patch of {'x'.join(map(str, net.patch))} voxels needs {least:.3g} GB, and "
                f"memory_gb is {memory_gb:g}; give more memory"
            )
        net = topology(spacing_mm, _less(net.patch, axis, step))
    fits = round(budget / net.feature_map_values(classes) * REFERENCE_BATCH)
    most = round(dataset_voxels * MOST_OF_DATASET / math.prod(net.patch))
    return NnunetPlan(spacing_mm, median_shape, net, max(min(fits, most), REFERENCE_BATCH), batch_dice=False)


def cropped_shape(images: Sequence[npt.NDArray[np.floating]]) -> Size:
    """Voxels of the box around everything that is not zero in any channel of a case; images: (X, Y, Z) each.

    Holes inside need no filling: they do not move the box. Raises ShapeError where all is zero.
    """
    mask = np.any([image != 0 for image in images], axis=0)
    if not mask.any():
        raise ShapeError("nnU-Net fingerprint: every voxel of the case is zero; leave the case out")
    x, y, z = (int(np.ptp(indices)) + 1 for indices in np.nonzero(mask))
    return x, y, z


def _lowres(fullres: NnunetPlan, classes: int, cases: int, memory_gb: float) -> NnunetPlan | None:
    """The plan of the coarser network: spacing grows by 3 % a step until a patch sees a quarter of the median image.

    While one axis is more than twice as coarse as others, only those others grow. None where fullres sees that much
    already, or where the coarser median image has more than half the voxels.
    """
    spacing, lowres = np.array(fullres.spacing_mm), None
    voxels, seen = math.prod(fullres.median_shape), math.prod(fullres.patch)
    while seen / voxels < LOWRES_SHARE:
        finer = spacing.max() / spacing > 2
        spacing[finer if finer.any() else slice(None)] *= LOWRES_STEP
        shape = np.array(fullres.spacing_mm) / spacing * fullres.median_shape
        voxels = float(shape.prod())
        lowres = plan_at(_triple(spacing), _triple(np.round(shape)), classes, voxels * cases, memory_gb)
        seen = math.prod(lowres.patch)
    return None if lowres is None or math.prod(fullres.median_shape) / voxels < 2 else lowres


def _less(patch: Size, axis: int, voxels: int) -> Size:
    return size_of(extent - voxels * (each == axis) for each, extent in enumerate(patch))


def _triple(values: Iterable[float]) -> Spacing:
    x, y, z = values
    return float(x), float(y), float(z)
