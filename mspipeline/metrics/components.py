"""Lesions as connected components of two masks, and the voxels that each pair of them shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cc3d
import numpy as np
import numpy.typing as npt

from mspipeline.metrics.crop import BoolArray, check_masks, common_box

Connectivity = Literal[6, 18, 26]
"""Neighbours that belong together: those that share a face; also an edge; also a corner."""
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Components:
    """The N components of a mask, by decreasing size; of equal sizes, the one with the first voxel first.

    sizes_vox: (N,) voxels. centroids_vox: (N, 3) mean voxel index, on the grid of the whole mask.
    """

    sizes_vox: IntArray
    centroids_vox: FloatArray

    def __len__(self) -> int:
        return len(self.sizes_vox)


@dataclass(frozen=True)
class Matching:
    """The components of truth and prediction, and the pairs of them that share voxels.

    pair_truth, pair_prediction: (P,) indices into `truth` and `prediction`. pair_vox: (P,) voxels shared, all above 0.
    """

    connectivity: Connectivity
    truth: Components
    prediction: Components
    pair_truth: IntArray
    pair_prediction: IntArray
    pair_vox: IntArray

    @property
    def truth_overlap_vox(self) -> IntArray:
        """(M,) voxels of each truth component that are predicted."""
        return _sums(self.pair_truth, self.pair_vox, len(self.truth))

    @property
    def prediction_overlap_vox(self) -> IntArray:
        """(N,) voxels of each predicted component that are in the truth."""
        return _sums(self.pair_prediction, self.pair_vox, len(self.prediction))


def match(truth: BoolArray, prediction: BoolArray, *, connectivity: Connectivity) -> Matching:
    """Find the components of two masks and their overlaps. An empty mask has no components.

    truth, prediction: (X, Y, Z) bool, on one grid.
    Raises ShapeError where the shapes differ or have not three axes, TypeError where a mask is not bool.
    """
    check_masks(truth, prediction)
    box = common_box(truth, prediction)
    if box is None:
        none = Components(np.zeros(0, np.int64), np.zeros((0, 3)))
        empty = np.zeros(0, np.int64)
        return Matching(connectivity, none, none, empty, empty, empty)
    offset = (box[0].start, box[1].start, box[2].start)
    truth_labels, in_truth = _labels(truth[box], connectivity)
    prediction_labels, in_prediction = _labels(prediction[box], connectivity)
    shape = truth_labels.shape
    flat = prediction_labels.ravel()
    partners = flat[in_truth]
    shared = partners > 0
    pairs = truth_labels.ravel()[in_truth[shared]].astype(np.int64) * (int(flat.max()) + 1) + partners[shared]
    keys, voxels = np.unique(pairs, return_counts=True)
    truth_of, prediction_of = np.divmod(keys, int(flat.max()) + 1)
    truth_components, truth_rank = _measure(truth_labels.ravel()[in_truth], in_truth, shape, offset)
    prediction_components, prediction_rank = _measure(flat[in_prediction], in_prediction, shape, offset)
    return Matching(
        connectivity,
        truth_components,
        prediction_components,
        truth_rank[truth_of - 1],
        prediction_rank[prediction_of - 1],
        voxels.astype(np.int64),
    )


def label(mask: BoolArray, connectivity: Connectivity) -> npt.NDArray[np.unsignedinteger]:
    """(X, Y, Z), C-contiguous, each component's number from 1 on, 0 outside. An empty mask has none."""
    # cc3d (4.1) makes room for an eighth of the voxels as components, and raises RuntimeError where there are more, as
    # in (1, 1, 3) voxels whose outer two are set. With a border there cannot be.
    border = int(np.count_nonzero(mask) >= mask.size // 8)
    framed = np.pad(mask, 1) if border else np.ascontiguousarray(mask)
    # As (Z, Y, X), which costs no copy: cc3d takes half the time on its own, Fortran order.
    labels = cc3d.connected_components(framed.T, connectivity=connectivity, binary_image=True).T
    return np.ascontiguousarray(labels[1:-1, 1:-1, 1:-1] if border else labels)


def _labels(mask: BoolArray, connectivity: Connectivity) -> tuple[npt.NDArray[np.unsignedinteger], IntArray]:
    """Labels from 1 on a C-contiguous crop, and the flat indices of its foreground, ascending."""
    return label(mask, connectivity), np.flatnonzero(mask)


def _measure(
    labels: npt.NDArray[np.unsignedinteger], at: IntArray, shape: tuple[int, ...], offset: tuple[int, int, int]
) -> tuple[Components, IntArray]:
    """Components of labelled foreground voxels, and the rank of each label (its index in them)."""
    found, first = np.unique(labels, return_index=True)
    index = labels.astype(np.int64) - 1
    sizes = np.bincount(index, minlength=len(found))
    sums = [np.bincount(index, weights=axis, minlength=len(found)) for axis in np.unravel_index(at, shape)]
    centroids = np.stack(sums, axis=1) / sizes[:, None] + offset if len(found) else np.zeros((0, 3))
    order = np.lexsort((first, -sizes))
    rank = np.empty(len(found), np.int64)
    rank[order] = np.arange(len(found))
    return Components(sizes[order].astype(np.int64), centroids[order]), rank


def _sums(index: IntArray, voxels: IntArray, length: int) -> IntArray:
    sums = np.zeros(length, np.int64)
    np.add.at(sums, index, voxels)
    return sums
