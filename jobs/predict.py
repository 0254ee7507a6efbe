"""Lesion maps for a folder of scans, written as a BIDS derivative on each scan's own grid."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import mspipeline
from mspipeline.backends.base import Execution
from mspipeline.config import PredictJob
from mspipeline.datasets.bids import PREDICTED
from mspipeline.datasets.case import Case
from mspipeline.datasets.layouts import find_cases
from mspipeline.errors import DatasetError, shown
from mspipeline.files import write_json
from mspipeline.inference.postprocess import LesionMap, lesion_mask
from mspipeline.inference.trained import TrainedCascade, TrainedRun, load_any
from mspipeline.inference.windows import predict_on_scan
from mspipeline.jobs.resources import patches_or, slices_or, threads_for
from mspipeline.patches.candidates import candidates
from mspipeline.preprocess import patches3d
from mspipeline.preprocess.brain import MASKS, WORDS, BrainChoice, BrainOrigin, BrainSource, doubts_of, sources_of
from mspipeline.preprocess.recipe import apply_files
from mspipeline.runs import RunRecord
from mspipeline.telemetry.events import EventWriter
from mspipeline.training.protocols import Stop
from mspipeline.volume import save_volume

log = logging.getLogger(__name__)

REMEDIES: tuple[tuple[BrainSource, str], ...] = (
    ("nonzero", f"maps of scans that are not skull-stripped are wrong then; add {MASKS}, --brain mask asks for them"),
    ("mask", "--brain nonzero takes them as in training"),
)
"""What follows where a brain's source is not one of the training's, and what to do."""


@dataclass(frozen=True)
class Prediction:
    """What was written for one case. lesion_ml: volume of the predicted lesions in millilitres."""

    case: str
    mask: Path
    probability: Path
    lesion_ml: float


def predict(
    job: PredictJob,
    *,
    events: EventWriter,
    stop: Stop,
    report: Callable[[str, int, int], None] | None = None,
    warn: Callable[[str], None] = log.warning,
) -> list[Prediction]:
    """Write OUTPUT/mspipeline-RUN/sub-*/[ses-*/]anat/*_label-lesion_{mask,probseg}.nii.gz for every case.

    report: called with (case, done, total) after each. warn: called with each line about scans that are not used and
    brains that look wrong, or come from another source than in training. Cases without a modality that the run needs
    fail the whole command before anything is written, unless `skip_incomplete`. A stop ends after a whole case, in a
    cascade after a batch of patches, whose case is then not written.
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
        if job.brain is not None:
            trained = _with_brain(trained, job.brain)
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
        brains = _brains(job, trained, found.cases)
        for line in (*found.warnings, *_other_source(trained.record, brains)):
            warn(line)
    folder = job.output / f"{PREDICTED}{trained.record.run_id}"
    _describe(folder, job, trained.record, trained.device, Counter(brains.values()))
    done: list[Prediction] = []
    origins: dict[str, BrainOrigin | None] = {}
    with events.phase("predict"):
        for number, case in enumerate(found.cases, start=1):
            if isinstance(trained, TrainedCascade):
                lesions, origin = _by_patches(job, trained, case, threads, stop)
            else:
                lesions, origin = _by_slices(job, trained, case)
            origins[case.id] = origin
            done.append(_write(folder, case, lesions, _sidecar(job, trained, case, origin)))
            if report is not None:
                report(case.id, number, len(found.cases))
            if error := stop():
                raise error
    for line in doubts_of(origins):
        warn(line)
    return done


def _with_brain(trained: TrainedRun | TrainedCascade, brain: BrainChoice) -> TrainedRun | TrainedCascade:
    """The same network, with brains from elsewhere."""
    if isinstance(trained, TrainedRun):
        return replace(trained, recipe=trained.recipe.model_copy(update={"brain": brain}))
    return replace(trained, recipe=trained.recipe.model_copy(update={"brain": brain}))


def _brains(job: PredictJob, trained: TrainedRun | TrainedCascade, cases: Sequence[Case]) -> dict[str, BrainSource]:
    """Case -> where its brain comes from. Raises DatasetError where masks are insisted on and some are missing."""
    without = [case.id for case in cases if case.brain_mask is None]
    if trained.recipe.brain == "mask" and without:
        raise DatasetError(
            f"{job.dataset}: {len(without)} of {len(cases)} cases have no brain mask ({shown(without)}); "
            f"add {MASKS}, or take the voxels that are not 0 in skull-stripped scans by --brain nonzero"
        )
    return sources_of(trained.recipe.brain, {case.id: case.brain_mask is not None for case in cases})


def _other_source(record: RunRecord, brains: Mapping[str, BrainSource]) -> list[str]:
    """A line for each source that brains come from now and none came from in training."""
    lines = []
    trained = [source for source, count in record.brain_sources.items() if count]
    for source, remedy in REMEDIES:
        cases = [case for case, used in brains.items() if used == source]
        if cases and trained and source not in trained:
            lines.append(
                f"the brain of {len(cases)} of {len(brains)} cases ({shown(cases)}) comes from {WORDS[source]}, in "
                f"training from {WORDS[trained[0]]}: {remedy}"
            )
    return lines


def _sidecar(job: PredictJob, trained: TrainedRun | TrainedCascade, case: Case, origin: BrainOrigin) -> dict[str, Any]:
    """What BIDS asks of a mask's JSON, and where the brain came from."""
    used = [*(case.scans[modality] for modality in trained.recipe.modalities)]
    if case.brain_mask is not None and origin.source == "mask":
        used.append(case.brain_mask)
    return {
        "Type": "Lesion",
        "Sources": [f"bids:scans:{quote(os.fsencode(path.relative_to(job.dataset)))}" for path in used],
        "BrainSource": origin.source,
        "BrainShareOfVolume": round(origin.share, 6),
        "BrainDoubts": list(origin.doubts),
        "BrainSourcesInTraining": trained.record.brain_sources,
    }


def _by_slices(job: PredictJob, trained: TrainedRun, case: Case) -> tuple[LesionMap, BrainOrigin]:
    recipe = trained.recipe
    routes, strays = case.routes(recipe.resample_to), case.strays(recipe.resample_to or recipe.modalities[0])
    prepared = apply_files(recipe, case.scans, case.brain_mask, routes=routes, strays=strays)
    batch_size = slices_or(job.batch_size)
    probability = predict_on_scan(
        trained.backend, trained.channels, prepared, axis=trained.recipe.axis, batch_size=batch_size
    )
    mask = lesion_mask(probability, threshold=trained.record.threshold)
    return LesionMap(probability, mask, prepared.grid), prepared.brain_origin


def _by_patches(
    job: PredictJob, trained: TrainedCascade, case: Case, threads: int, stop: Stop
) -> tuple[LesionMap, BrainOrigin]:
    from mspipeline.inference.lesion_map import map_lesions  # loads numba, which takes a while

    recipe = trained.recipe
    routes, strays = case.routes(recipe.resample_to), case.strays(recipe.resample_to or recipe.modalities[0])
    prepared = patches3d.apply_files(recipe, case.scans, case.brain_mask, routes=routes, strays=strays)

    def still_wanted() -> None:
        if error := stop():
            raise error

    lesions = map_lesions(
        trained,
        prepared.image,
        candidates(prepared.image[..., recipe.candidates_channel], recipe.candidates_above, within=prepared.brain),
        prepared.grid,
        batch_size=patches_or(job.batch_size),
        threads=threads,
        between_batches=still_wanted,
    )
    return lesions, prepared.brain_origin


def _write(folder: Path, case: Case, lesions: LesionMap, sidecar: Mapping[str, Any]) -> Prediction:
    anatomy = folder.joinpath(case.subject, case.session or "", "anat")
    written = Prediction(
        case.id,
        anatomy / f"{case.id}_label-lesion_mask.nii.gz",
        anatomy / f"{case.id}_label-lesion_probseg.nii.gz",
        int(lesions.mask.sum()) * lesions.grid.voxel_ml,
    )
    for image in (written.probability, written.mask):
        write_json(image.with_name(image.name.removesuffix(".nii.gz") + ".json"), sidecar)
    save_volume(written.probability, lesions.probability, lesions.grid)
    save_volume(written.mask, lesions.mask, lesions.grid)
    return written


def _describe(folder: Path, job: PredictJob, record: RunRecord, device: str, brains: Mapping[BrainSource, int]) -> None:
    """`dataset_description.json` of the derivative. device: that predicts. brains: cases by their brain's source."""
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
            "DatasetLinks": {"scans": job.dataset.resolve().as_uri()},
            "BrainSources": dict(brains),
            "BrainSourcesInTraining": record.brain_sources,
        },
    )
