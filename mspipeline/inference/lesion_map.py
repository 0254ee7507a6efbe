"""The lesions of a case, from a cascade and the voxels it starts with."""

from __future__ import annotations

from collections.abc import Callable

from mspipeline.inference.cascade import predict_cascade
from mspipeline.inference.postprocess import LesionMap, lesion_mask
from mspipeline.inference.trained import TrainedCascade
from mspipeline.patches.candidates import Coordinates
from mspipeline.volume import FloatArray, ScanGrid


def map_lesions(
    trained: TrainedCascade,
    image: FloatArray,
    candidates: Coordinates,
    grid: ScanGrid,
    *,
    batch_size: int,
    threads: int,
    between_batches: Callable[[], None] = lambda: None,
) -> LesionMap:
    """What a cascade makes of a normalised volume: its last stage's probabilities, and the lesions in them.

    image: (X, Y, Z, C), C-contiguous, on the canonical axes of `grid`. candidates: (N, 3). between_batches: called
    after each; what it raises ends the prediction. Errors: as `predict_cascade`.
    """
    settings = trained.settings
    probability = predict_cascade(
        trained.stages,
        image,
        candidates,
        pass_above=settings.pass_above,
        batch_size=batch_size,
        threads=threads,
        report=lambda stage, patches, total: between_batches(),
    )
    mask = lesion_mask(
        probability,
        threshold=trained.record.threshold,
        larger_than_vox=settings.larger_than_vox,
        min_total_ml=settings.min_total_ml,
        voxel_ml=grid.voxel_ml,
    )
    return LesionMap(probability, mask, grid)
