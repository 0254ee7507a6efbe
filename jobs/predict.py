"""Lesion maps for a folder of scans, written as a BIDS derivative on each scan's own grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mspipeline
from mspipeline.backends.base import Execution
from mspipeline.config import PredictJob
from mspipeline.datasets.bids import PREDICTED
from mspipeline.datasets.case import Case
from mspipeline.datasets.layouts import find_cases
from mspipeline.errors import DatasetError
from mspipeline.files import write_json
from mspipeline.inference.postprocess import LesionMap, lesion_mask
from mspipeline.inference.trained import TrainedCascade, TrainedRun, load_any
from mspipeline.inference.windows import predict_on_scan
from mspipeline.jobs.resources import patches_or, slices_or, threads_for
from mspipeline.patches.candidates import candidates
from mspipeline.preprocess import patches3d
from mspipeline.preprocess.recipe import apply_files
from mspipeline.runs import RunRecord
from mspipeline.telemetry.events import EventWriter
from mspipeline.training.protocols import Stop
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
    command before anything is written, unless `skip_incomplete`. A stop ends after a whole case, in a cascade after a
    batch of patches, whose case is then not written.
    Raises DatasetError, VolumeError, RunFolderError, BackendError.
    """
    with events.phase("setup"):
        threads = threads_for(job.threads)
        trained = load_any(
            job.run_folder,
            job.checkpoint,
            Execution(job.device, threads),
            inference=job.inference,
            memory_budget_mb=job.memory_budget_mb,
        )
        modalities = trained.recipe.modalities
        wants_brain = trained.recipe.brain != "nonzero"
        found = find_cases(job.dataset, modalities, masks="optional", brain=wants_brain, prefer=job.prefer)
        if found.incomplete and not job.skip_incomplete:
            raise DatasetError(
                f"{job.dataset}: {len(found.incomplete)} incomplete ({found.reasons}); "
                "`--skip-incomplete` leaves them out"
            )
        if not found.cases:
            raise DatasetError(f"{job.dataset}: no case has {', '.join(modalities)}; nothing to predict")
    folder = job.output / f"{PREDICTED}{trained.record.run_id}"
    _describe(folder, job, trained.record, trained.device)
    done = []
    with events.phase("predict"):
        for number, case in enumerate(found.cases, start=1):
            if isinstance(trained, TrainedCascade):
                lesions = _by_patches(job, trained, case, threads, stop)
            else:
                lesions = _by_slices(job, trained, case)
            done.append(_write(folder, case, lesions))
            if report is not None:
                report(case.id, number, len(found.cases))
            if error := stop():
                raise error
    return done


def _by_slices(job: PredictJob, trained: TrainedRun, case: Case) -> LesionMap:
    recipe = trained.recipe
    routes, strays = case.routes(recipe.resample_to), case.strays(recipe.resample_to or recipe.modalities[0])
    prepared = apply_files(recipe, case.scans, case.brain_mask, routes=routes, strays=strays)
    batch_size = slices_or(job.batch_size)
    probability = predict_on_scan(
        trained.backend, trained.channels, prepared, axis=trained.recipe.axis, batch_size=batch_size
    )
    mask = lesion_mask(probability, threshold=trained.record.threshold)
    return LesionMap(probability, mask, prepared.grid)


def _by_patches(job: PredictJob, trained: TrainedCascade, case: Case, threads: int, stop: Stop) -> LesionMap:
    from mspipeline.inference.lesion_map import map_lesions  # loads numba, which takes a while

    recipe = trained.recipe
    routes, strays = case.routes(recipe.resample_to), case.strays(recipe.resample_to or recipe.modalities[0])
    prepared = patches3d.apply_files(recipe, case.scans, case.brain_mask, routes=routes, strays=strays)

    def still_wanted() -> None:
        if error := stop():
            raise error

    return map_lesions(
        trained,
        prepared.image,
        candidates(prepared.image[..., recipe.candidates_channel], recipe.candidates_above, within=prepared.brain),
        prepared.grid,
        batch_size=patches_or(job.batch_size),
        threads=threads,
        between_batches=still_wanted,
    )


def _write(folder: Path, case: Case, lesions: LesionMap) -> Prediction:
    anatomy = folder.joinpath(case.subject, case.session or "", "anat")
    written = Prediction(
        case.id,
        anatomy / f"{case.id}_label-lesion_mask.nii.gz",
        anatomy / f"{case.id}_label-lesion_probseg.nii.gz",
        int(lesions.mask.sum()) * lesions.grid.voxel_ml,
    )
    save_volume(written.probability, lesions.probability, lesions.grid)
    save_volume(written.mask, lesions.mask, lesions.grid)
    return written


def _describe(folder: Path, job: PredictJob, record: RunRecord, device: str) -> None:
    """`dataset_description.json` of the derivative. device: that predicts."""
    rule = f"a voxel is lesion where its probability is at least {record.threshold:g}"
    if cascade := record.cascade:
        rule += (
            f", in the last of {cascade.stages} stages (each passes on what is above {cascade.pass_above:g}), and its "
            f"lesion has more than {cascade.larger_than_vox} voxels (6-connected); none where all lesions have less "
            f"than {cascade.min_total_ml:g} ml"
        )
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
                        f"{record.model} on {record.backend} {record.backend_version} ({device}), "
                        f"{job.checkpoint} checkpoint; "
                        f"{rule}"
                    ),
                }
            ],
            "SourceDatasets": [{"URL": job.dataset.resolve().as_uri()}],
        },
    )
