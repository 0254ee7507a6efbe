"""The numbers of recipe `slices2d`: every one between scans and the slices that a network sees, and of training."""

from __future__ import annotations

from typing import Literal

from pydantic import JsonValue, PositiveInt

from mspipeline.config import Strict
from mspipeline.files import sha256_data
from mspipeline.preprocess.brain import BrainChoice
from mspipeline.recipes.scans import ScanSchema
from mspipeline.transforms.chain import Chain, make_chain

Order = Literal[0, 1]


class SliceSchema(ScanSchema):
    """Scans to normalised slices. Each key is explained in `slices2d.toml`, whose values are the defaults here."""

    kind: Literal["slices2d"] = "slices2d"
    modalities: tuple[str, ...] = ("FLAIR",)
    size: tuple[PositiveInt, PositiveInt, PositiveInt] = (256, 256, 256)
    image_order: Order = 1
    mask_order: Order = 0
    axis: Literal[0, 1, 2] = 2
    normalisation: Literal["zscore", "none"] = "zscore"
    brain: BrainChoice = "auto"
    zero_outside_brain: bool = True
    drop_slices_without_brain: bool = False
    mask_threshold: float | None = None
    compression: Literal["none", "lzf", "gzip"] = "lzf"
    resample_to: str | None = None

    @property
    def hash(self) -> str:
        """SHA-256 of every key and value; of `resample_to` where it is set: it came later than the first shards."""
        unset = {"resample_to"} if self.resample_to is None else set()
        return sha256_data(self.model_dump(mode="json", exclude=unset))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of a slice."""
        height, width = (n for axis, n in enumerate(self.size) if axis != self.axis)
        return (height, width, len(self.modalities))


class SliceTraining(Strict):
    """`[training.recipe]` of a training on slices.

    transforms: of the slices that are trained on, one after the other, each a table of its `name` and its settings;
    see `transforms`.
    """

    transforms: tuple[dict[str, JsonValue], ...] = ()

    def chain(self, image_shape: tuple[int, ...]) -> Chain:
        """The transforms, for slices of this shape (H, W, C). Raises ConfigError where they do not fit."""
        return make_chain(self.transforms, image_shape, where="training.recipe.transforms")
