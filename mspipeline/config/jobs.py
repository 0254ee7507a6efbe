"""The settings of the suite's own jobs, as their files have them; run folders keep them, sweeps vary them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from mspipeline.config.strict import Scalar, Strict
from mspipeline.config.training import TrainingSettings
from mspipeline.optimizers import OPTIMIZERS


class ModelSettings(Strict):
    """Which network, with which arguments of its builder (see `mspipeline models`).

    name: may be `FILE.py:FUNCTION`. file_sha256: of that file when the job was made; unset for other networks.
    """

    name: str
    arguments: dict[str, Scalar] = Field(default_factory=dict)
    file_sha256: str | None = None

    @property
    def plain_name(self) -> str:
        """The name as a part of a folder's name: of a function in a file, the file's and its own."""
        file, _, function = self.name.partition(":")
        return re.sub(r"[^A-Za-z0-9_-]+", "_", f"{Path(file).stem}_{function}") if function else self.name


class TrainJob(Strict):
    """One training: `python -m mspipeline.jobs train FILE`.

    shards: folder made by `mspipeline prepare`. run_folder: where this run writes.
    threads: of the framework; 0 takes every core this process may use. memory: PyEDDL's level, without effect on the
    other backends. certificates: folder in which to look for one that says that this backend's network is another's.
    stage: of a cascade, the one to train, counted from 1; all of them where unset. campaign, cell: set by a sweep.
    checkpoint_every_s: seconds between checkpoints within an epoch, the most that a kill or a dead node costs.
    processes: that train together, each on its share of every batch; see backends.process_group.
    """

    model: ModelSettings
    backend: str = "tensorflow"
    device: Literal["auto", "cpu", "gpu"] = "auto"
    memory: Literal["low_mem", "mid_mem", "full_mem"] = "mid_mem"
    seed: int = Field(0, ge=0)
    threads: int = Field(0, ge=0)
    processes: PositiveInt = 1
    shards: Path
    run_folder: Path
    training: TrainingSettings = TrainingSettings()
    certificates: Path | None = None
    stage: PositiveInt | None = None
    checkpoint_every_s: PositiveFloat = 300.0
    campaign: str = ""
    cell: str = ""


Inference = Literal["auto", "dense", "patches"]
Device = Literal["auto", "cpu", "gpu"]


class EvaluateJob(Strict):
    """One evaluation of a run on the cases of some subsets: `python -m mspipeline.jobs evaluate FILE`.

    subsets: of `train`, `validation`, `test`; empty means those of validation and test that have cases.
    device, batch_size, inference, memory_budget_mb: as in PredictJob.
    """

    run_folder: Path
    shards: Path
    subsets: tuple[Literal["train", "validation", "test"], ...] = ()
    checkpoint: Literal["best", "last"] = "best"
    device: Device = "auto"
    batch_size: PositiveInt | None = None
    threads: int = Field(0, ge=0)
    inference: Inference = "auto"
    memory_budget_mb: PositiveInt = 1024


class PredictJob(Strict):
    """Lesion maps for a folder of scans, written as a BIDS derivative: `python -m mspipeline.jobs predict FILE`.

    batch_size: unset is 8 slices, or 1,024 patches. prefer: as in PrepareJob.
    brain: where brains come from, in place of what the recipe of the training has; see preprocess.brain.
    inference: of a cascade, patch by patch, by dense tiles, which give the same probabilities, or what needs less
        arithmetic at each tile. memory_budget_mb: by which dense tiles may make the process grow, at most.
    """

    run_folder: Path
    dataset: Path
    output: Path
    checkpoint: Literal["best", "last"] = "best"
    device: Device = "auto"
    batch_size: PositiveInt | None = None
    threads: int = Field(0, ge=0)
    skip_incomplete: bool = False
    prefer: tuple[str, ...] = ()
    brain: Literal["auto", "mixed", "mask", "nonzero"] | None = None
    inference: Inference = "auto"
    memory_budget_mb: PositiveInt = 1024


class SplitSettings(Strict):
    """How cases are dealt to subsets: by subject, never by slice. Shares of the number of subjects."""

    seed: int = Field(0, ge=0)
    validation: float = Field(0.2, ge=0, lt=1)
    test: float = Field(0.2, ge=0, lt=1)
    file: Path | None = None


class PrepareJob(Strict):
    """Scans to shards: `python -m mspipeline.jobs prepare FILE`. recipe: a built-in name or a TOML file.

    resample_to: modality onto whose grid the other files of a case are put; the recipe's own where unset.
    change_mask: take a mask of lesions that changed between two studies for a lesion mask (raw open-MS data).
    prefer: which of several files of one kind to take, by an entity of its name ("run-1", "desc-consensus"), its folder
        of derivatives or its ending (".nii.gz"), in this order.
    """

    dataset: Path
    output: Path
    recipe: str = "slices2d"
    split: SplitSettings = SplitSettings()
    skip_incomplete: bool = False
    resample_to: str | None = None
    change_mask: bool = False
    prefer: tuple[str, ...] = ()


class CollectJob(Strict):
    """Run folders to Parquet tables: `python -m mspipeline.jobs collect FILE`."""

    runs: Path
    output: Path


class CertifyJob(Strict):
    """What one backend makes of a network, for a certificate: `python -m mspipeline.jobs certify FILE`.

    image_shape: spatial axes, channels last. batch_size: 0 chooses one. optimizers: of each of which a step is taken.
    evidence: the file to write.
    """

    model: ModelSettings
    image_shape: tuple[PositiveInt, ...]
    backend: str
    device: Literal["auto", "cpu", "gpu"] = "auto"
    threads: PositiveInt = 1
    seed: int = Field(0, ge=0)
    batch_size: int = Field(0, ge=0)
    optimizers: tuple[str, ...] = Field(tuple(OPTIMIZERS.built_in), min_length=1)
    evidence: Path
