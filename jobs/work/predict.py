"""Maps of lesions or other labels for a folder of scans, a BIDS derivative on each scan's own grid."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import mspipeline
from mspipeline.config import PredictJob
from mspipeline.datasets.bids import PREDICTED
from mspipeline.datasets.case import Case
from mspipeline.errors import DatasetError, shown
from mspipeline.files import write_bytes, write_json
from mspipeline.jobs.work.resources import prediction_settings
from mspipeline.labels import LESION, LESIONS, LabelSet
from mspipeline.preprocess.brain import MASKS, WORDS, BrainOrigin, BrainSource, doubts_of
from mspipeline.recipes.prediction import Segmentation, Trained
from mspipeline.recipes.trained import recipe_of_run
from mspipeline.runs import RunPaths, RunRecord
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
    """What was written for one case. mask: of lesions, or a label map. probability: of lesions, None of label maps.

    volumes_ml: of each predicted label, in millilitres.
    """

    case: str
    mask: Path
    probability: Path | None
    volumes_ml: Mapping[str, float]


def predict(
    job: PredictJob,
    *,
    events: EventWriter,
    stop: Stop,
    report: Callable[[str, int, int], None] | None = None,
    warn: Callable[[str], None] = log.warning,
) -> list[Prediction]:
    """Write OUTPUT/mspipeline-RUN/sub-*/[ses-*/]anat/*_label-lesion_{mask,probseg}.nii.gz for every case.

    Of a run of other labels than lesions: a label map, *_dseg.nii.gz, and the table of its labels, *_dseg.tsv.

    report: called with (case, done, total) after each. warn: called with each line about scans that are not used and
    brains that look wrong, or come from another source than in training. Cases without a modality that the run needs
    fail the whole command before anything is written, unless `skip_incomplete`. A stop ends after a whole case, in a
    cascade after a batch of patches, whose case is then not written.
    Raises DatasetError, VolumeError, RunFolderError, BackendError.
    """
    with events.phase("setup"):
        record, recipe = recipe_of_run(job.run_folder)
        if job.brain is not None:
            recipe = recipe.with_brain(job.brain)
        trained = recipe.load(RunPaths(job.run_folder), record, prediction_settings(job, stop))
        found = recipe.find(job.dataset, masks="optional", prefer=job.prefer)
        if found.incomplete and not job.skip_incomplete:
            raise DatasetError(
                f"{job.dataset}: {len(found.incomplete)} incomplete ({found.reasons}); "
                "`--skip-incomplete` leaves them out"
            )
        if not found.cases:
            raise DatasetError(f"{job.dataset}: no case has {', '.join(recipe.channels)}; nothing to predict")
        brains = recipe.brain_sources(job.dataset, found.cases)
        for line in (*found.warnings, *_other_source(record, brains)):
            warn(line)
    folder = job.output / f"{PREDICTED}{record.run_id}"
    _describe(folder, job, trained, Counter(brains.values()))
    done: list[Prediction] = []
    origins: dict[str, BrainOrigin | None] = {}
    with events.phase("predict"):
        for number, case in enumerate(found.cases, start=1):
            found_labels, origin = trained.case(case)
            origins[case.id] = origin
            sidecar = _sidecar(job, [*recipe.inputs(case).values()], record, case, origin)
            done.append(_write(folder, case, found_labels, trained.labels, sidecar))
            if report is not None:
                report(case.id, number, len(found.cases))
            if error := stop():
                raise error
    for line in doubts_of(origins):
        warn(line)
    return done


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


def _sidecar(
    job: PredictJob, used: Sequence[Path], record: RunRecord, case: Case, origin: BrainOrigin | None
) -> dict[str, Any]:
    """What BIDS asks of a mask's or label map's JSON, and where the brain came from, of a recipe that looks for one."""
    masks = [case.brain_mask] if case.brain_mask is not None and origin and origin.source == "mask" else []
    sidecar: dict[str, Any] = {
        **({"Type": "Lesion"} if record.label_set == LESIONS else {}),
        "Sources": [f"bids:scans:{quote(os.fsencode(path.relative_to(job.dataset)))}" for path in (*used, *masks)],
    }
    if origin is not None:
        sidecar["BrainSource"] = origin.source
        sidecar["BrainShareOfVolume"] = round(origin.share, 6)
        sidecar["BrainDoubts"] = list(origin.doubts)
        sidecar["BrainSourcesInTraining"] = record.brain_sources
    return sidecar


def _write(folder: Path, case: Case, found: Segmentation, labels: LabelSet, sidecar: Mapping[str, Any]) -> Prediction:
    """Write the maps of one case, each with its JSON."""
    anatomy = folder.joinpath(case.subject, case.session or "", "anat")
    volumes_ml = {name: voxels * found.grid.voxel_ml for name, voxels in labels.voxels(found.labels).items()}
    if labels == LESIONS:
        mask, probability = (anatomy / f"{case.id}_label-lesion_{kind}.nii.gz" for kind in ("mask", "probseg"))
        written = Prediction(case.id, mask, probability, volumes_ml)
        for image in (probability, mask):
            write_json(_beside(image, ".json"), sidecar)
        save_volume(probability, found.probabilities[LESION], found.grid)
    else:
        written = Prediction(case.id, anatomy / f"{case.id}_dseg.nii.gz", None, volumes_ml)
        write_json(_beside(written.mask, ".json"), sidecar)
        lines = ["index\tname", *(f"{number}\t{name}" for number, name in enumerate(labels.names))]
        write_bytes(_beside(written.mask, ".tsv"), "\n".join([*lines, ""]).encode())
    save_volume(written.mask, found.labels, found.grid)
    return written


def _beside(image: Path, ending: str) -> Path:
    return image.with_name(image.name.removesuffix(".nii.gz") + ending)


def _maps(labels: LabelSet) -> str:
    return "Lesion maps" if labels == LESIONS else "Label maps"


def _describe(folder: Path, job: PredictJob, trained: Trained, brains: Mapping[BrainSource, int]) -> None:
    """`dataset_description.json` of the derivative. brains: cases by their brain's source."""
    record = trained.record
    write_json(
        folder / "dataset_description.json",
        {
            "Name": f"{_maps(trained.labels)} by {record.model} ({record.run_id})",
            "BIDSVersion": "1.10.0",
            "DatasetType": "derivative",
            "GeneratedBy": [
                {
                    "Name": "mspipeline",
                    "Version": mspipeline.__version__,
                    "Description": (
                        f"{record.model} on {record.backend} {record.backend_version} ({trained.device}), "
                        f"{job.checkpoint} checkpoint; "
                        f"{trained.rule}"
                    ),
                }
            ],
            "SourceDatasets": [{"URL": job.dataset.resolve().as_uri()}],
            "DatasetLinks": {"scans": job.dataset.resolve().as_uri()},
            "BrainSources": dict(brains),
            "BrainSourcesInTraining": record.brain_sources,
        },
    )
