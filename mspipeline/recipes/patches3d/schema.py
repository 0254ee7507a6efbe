"""The numbers of recipe `patches3d`: every one between scans and the patches a network sees, on the scans' own grid."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import PositiveInt, model_validator

from mspipeline.preprocess.brain import BrainChoice
from mspipeline.recipes.scans import ScanSchema


class PatchSchema(ScanSchema):
    """Scans to a normalised volume of all modalities, its candidates, and patches around them.

    Each key is explained in `patches3d.toml` too, whose values are the defaults here.

    modalities: the channels, in order. patch_size: voxels along each axis of a patch.
    spread: what an image is divided by once the mean of its brain is subtracted: the standard deviation of its
        "brain", or of the whole "volume", background included, as the Keras versions of nicMSlesions did.
    brain: as in `slices2d`, see `preprocess.brain`.
    zero_outside_brain: whether the background is 0 afterwards, or what normalising makes of 0 (nicMSlesions).
    candidates_of, candidates_above: a brain voxel is a candidate where this modality, normalised, is above this number.
    mask_threshold: as in `slices2d`. compression: inside the shards.
    resample_to: as in `slices2d`.
    """

    kind: Literal["patches3d"] = "patches3d"
    modalities: tuple[str, ...] = ("FLAIR", "T1w", "T2w")
    patch_size: tuple[PositiveInt, PositiveInt, PositiveInt] = (11, 11, 11)
    spread: Literal["brain", "volume"] = "brain"
    brain: BrainChoice = "auto"
    zero_outside_brain: bool = True
    candidates_of: str = "FLAIR"
    candidates_above: float = 0.5
    mask_threshold: float | None = None
    compression: Literal["none", "lzf", "gzip"] = "lzf"
    resample_to: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_stored_patches(cls, keys: Any) -> Any:
        """Shards of version 0.1 name two keys of patches stored beside the volume; nothing reads those patches."""
        stored = {"materialise", "materialised_negatives"}
        if isinstance(keys, dict) and stored <= keys.keys():
            return {key: value for key, value in keys.items() if key not in stored}
        return keys

    @model_validator(mode="after")
    def _candidates_are_seen(self) -> PatchSchema:
        if self.candidates_of not in self.modalities:
            raise ValueError(f"candidates_of must be one of the modalities, {', '.join(self.modalities)}")
        return self

    @property
    def candidates_channel(self) -> int:
        """The channel that candidates are taken from."""
        return self.modalities.index(self.candidates_of)

    @property
    def image_shape(self) -> tuple[int, int, int, int]:
        """(X, Y, Z, C) of a patch."""
        return (*self.patch_size, len(self.modalities))
