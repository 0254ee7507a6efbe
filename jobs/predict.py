"""Lesion maps for a folder of scans, written as a BIDS derivative on each scan's own grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import mspipeline
from jobs.resources import threads_for
from mspipeline.backends.base import Execution
from mspipeline.config import PredictJob
from mspipeline.datasets.bids import PREDICTED, Case, find_cases
from mspipeline.errors import DatasetError
from mspipeline.files import write_json
from mspipeline.inference.trained import TrainedRun, load_trained
from mspipeline.inference.windows import predict_on_scan
from mspipeline.preprocess.recipe import apply_files
from mspipeline.telemetry.events import EventWriter
from mspipeline.training.loop import Stop
from mspipeline.volume import save_volume


@dataclass(frozen=True)
class Prediction:
    """What was written for one case. lesion_ml: volume of the predicted lesions in millilitres."""

    case: str
    mask: Path
    probability: Path
    lesion_ml: float


def predict(
    job: PredictJob, *, events: EventWriter, stop: Stop, report: Callable[[str, int, int], None] | None = None
) -> list[Prediction]:
    """Write OUTPUT/mspipeline-RUN/sub-*/[ses-*/]anat/*_label-lesion_{mask,probseg}.nii.gz for every case.

    report: called with (case, done, total) after each. Cases without a modality that the run needs fail the whole
    command before anything is written, unless `skip_incomplete`.
    Raises DatasetError, VolumeError, RunFolderError, BackendError.
    """
    with events.phase("setup"):
        trained = load_trained(job.run_folder, job.checkpoint, Execution(threads=threads_for(job.threads)))
        found = find_cases(job.dataset, trained.recipe.modalities, masks="optional")
        if found.incomplete and not job.skip_incomplete:
            named = "; ".join(f"{case}: {reason}" for case, reason in found.incomplete)
            raise DatasetError(
                f"{job.dataset}: {len(found.incomplete)} incomplete ({named}); `--skip-incomplete` leaves them out"
            )
        if not found.cases:
            raise DatasetError(f"{job.dataset}: no case has {', '.join(trained.recipe.modalities)}; nothing to predict")
    folder = job.output / f"{PREDICTED}{trained.record.run_id}"
    _describe(folder, job, trained)
    done = []
    with events.phase("predict"):
        for number, case in enumerate(found.cases, start=1):
            done.append(_predict_case(job, trained, case, folder))
            if report is not None:
                report(case.id, number, len(found.cases))
            if error := stop():
                raise error
    return done


def _predict_case(job: PredictJob, trained: TrainedRun, case: Case, folder: Path) -> Prediction:
    prepared = apply_files(trained.recipe, case.scans, case.brain_mask)
    probability = predict_on_scan(trained.backend, prepared, axis=trained.recipe.axis, batch_size=job.batch_size)
    mask = probability >= np.float32(trained.record.threshold)
    anatomy = folder.joinpath(case.subject, case.session or "", "anat")
    written = Prediction(
        case.id,
        anatomy / f"{case.id}_label-lesion_mask.nii.gz",
        anatomy / f"{case.id}_label-lesion_probseg.nii.gz",
        int(mask.sum()) * prepared.grid.voxel_ml,
    )
    save_volume(written.probability, probability, prepared.grid)
    save_volume(written.mask, mask, prepared.grid)
    return written


def _describe(folder: Path, job: PredictJob, trained: TrainedRun) -> None:
    """`dataset_description.json` of the derivative."""
    record = trained.record
    write_json(
        folder / "dataset_description.json",
        {
            "Name": f"Lesion maps by {record.model} ({record.run_id})",
            "BIDSVersion": "1.10.0",
            "DatasetType": "derivative",
            "GeneratedBy": [
                {
                    "Name": "mspipeline",
                    "Version": mspipeline.__version__,
                    "Description": (
                        f"{record.model} on {record.backend} {record.backend_version}, {job.checkpoint} checkpoint; "
                        f"a voxel is lesion where its probability is at least {record.threshold:g}"
                    ),
                }
            ],
            "SourceDatasets": [{"URL": job.dataset.resolve().as_uri()}],
        },
    )
