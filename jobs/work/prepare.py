"""Scans to shards: `python -m mspipeline.jobs prepare FILE`, on one process or, under an MPI launcher, several.

One shard per case, the manifest last. What is on disk already and fits (same recipe, same source files) is kept, so a
prepare that was stopped continues where it was, and one that was finished does nothing. Rank 0 decides what is to be
done, the ranks share the cases, and the files are the same, byte by byte, for any number of ranks.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mspipeline.config import PrepareJob
from mspipeline.datasets.layouts import Found
from mspipeline.datasets.split import make_split
from mspipeline.errors import DatasetError, Interrupted, Preempted, shown
from mspipeline.files import sha256_data
from mspipeline.jobs.work.prepare_case import (
    HashTask,
    InspectTask,
    ShardResult,
    ShardTask,
    Sources,
    hash_files,
    hashes,
    inspect,
    make,
)
from mspipeline.jobs.work.prepare_times import CaseTime, rank_times, write_times
from mspipeline.jobs.work.shards_folder import check_output, check_strays, previous_manifest, remove_partials
from mspipeline.labels import stored
from mspipeline.parallel.launchers import launch_of
from mspipeline.parallel.ranks import Done, Stopped, Team, one_process, open_team
from mspipeline.preprocess.brain import doubts_of
from mspipeline.recipes.catalogue import AnyRecipe, load_recipe
from mspipeline.shards.lock import hold_folder
from mspipeline.shards.manifest import (
    SCHEMA_VERSION,
    Manifest,
    ShardEntry,
    SkippedCase,
    missing_labels,
    write_manifest,
)

log = logging.getLogger(__name__)

Report = Callable[[str, int, int], None]

CASES_NAMED = 3
"""Cases that one warning names; the manifest has them all."""


@contextmanager
def prepare_team(environ: Mapping[str, str]) -> Iterator[Team | None]:
    """`ranks.open_team`; on several ranks the log names the rank and tells the times."""
    launch = launch_of(environ)
    if launch and launch.size > 1:
        form = f"%(levelname)s rank {launch.rank} %(name)s: %(message)s"
        logging.basicConfig(level=logging.WARNING, format=form, force=True)
        logging.getLogger("mspipeline.jobs.work.prepare_times").setLevel(logging.INFO)
    with open_team(environ) as team:
        yield team


def prepare(
    job: PrepareJob,
    *,
    recipe_overrides: Mapping[str, Any] | None = None,
    report: Report | None = None,
    team: Team | None = None,
) -> Manifest:
    """Prepare every case of a dataset and return the manifest.

    recipe_overrides: recipe keys that replace those of the recipe's file. report(case, done, total): after each case.
    team: ranks that share the work; this process alone where None. Called on rank 0.
    Everything that can be told without reading voxels is checked for all cases before the first one is prepared.
    Raises ConfigError (recipe, split), DatasetError and VolumeError (scans), UsageError and ShardError (an output
    folder that holds something else, or that another prepare writes to), StorageError, Interrupted on Ctrl-C and
    Preempted on TERM. Shards finished before an error stay.
    """
    overrides = {**({"resample_to": job.resample_to} if job.resample_to else {}), **(recipe_overrides or {})}
    try:
        return _prepare(job, load_recipe(job.recipe, overrides), report, team or one_process())
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
        by = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        raise (Interrupted if number == signal.SIGINT else Preempted)(
            f"{job.output}: stopped by {by}, finished shards are kept; run the same command again to make the others"
        ) from None


def _prepare(job: PrepareJob, recipe: AnyRecipe, report: Report | None, team: Team) -> Manifest:
    started = time.perf_counter()
    check_output(job.output)
    found = recipe.find(job.dataset, masks="required", prefer=job.prefer, change_masks=job.change_mask)
    _check_complete(job, found)
    recipe.check_labels(found.labels, where=str(job.dataset))
    recipe.check_together(job.dataset, found.cases)
    labels = stored(found.labels)
    split = make_split({case.id: case.subject for case in found.cases}, job.split)
    names = [case.id for case in found.cases]
    tasks = [InspectTask(recipe, case) for case in found.cases]
    seen = team.run(inspect, tasks, costs=[1.0] * len(names), names=names)
    with hold_folder(job.output):
        remove_partials(job.output)
        hashing: list[tuple[int, float]] = []
        costs = [one.cost for one in seen]
        sources = team.run(
            hash_files,
            [HashTask(job.dataset, recipe.files(case)) for case in found.cases],
            costs=costs,
            names=names,
            done=lambda one: hashing.append((one.rank, one.seconds)),
        )
        dataset_hash = _dataset_hash({case: hashes(files) for case, files in zip(names, sources, strict=True)}, labels)
        previous = previous_manifest(job.output, recipe.document, recipe.hash, dataset_hash)
        check_strays(job.output, names)
        known = {} if previous is None else {entry.case: entry for entry in previous.cases}
        shard_tasks = [
            ShardTask(job.output, recipe, case, files, known.get(case.id))
            for case, files in zip(found.cases, sources, strict=True)
        ]
        times: list[CaseTime] = []

        def done(one: Done[ShardResult]) -> None:
            entry = one.value.entry
            times.append(CaseTime(entry.case, one.rank, one.seconds, entry.bytes, one.value.kept, costs[one.place]))
            if report:
                report(entry.case, len(times), len(names))

        made = team.run(make, shard_tasks, costs=costs, names=names, done=done)
        manifest = Manifest(
            schema_version=1 if labels is None else SCHEMA_VERSION,
            labels=labels,
            dataset_name=found.dataset_name,
            dataset_hash=dataset_hash,
            recipe=recipe.document,
            recipe_hash=recipe.hash,
            channels=recipe.channels,
            split=split,
            split_hash=split.hash,
            cases=tuple(one.entry for one in made),
            skipped=tuple(SkippedCase(case=case, reason=reason) for case, reason in found.incomplete),
            warnings=(
                *found.warnings,
                *_unplaced({case: one.unplaced for case, one in zip(names, seen, strict=True)}),
                *doubts_of({one.entry.case: one.entry.brain for one in made}),
                *_lesions_lost([one.entry for one in made]),
                *_same_scans(recipe, found, sources),
            ),
            others=dict(found.others),
            resampled={case: dict(one.resampled) for case, one in zip(names, seen, strict=True) if one.resampled},
            offsets_mm={case: dict(one.offsets_mm) for case, one in zip(names, seen, strict=True) if one.offsets_mm},
        )
        if missing := missing_labels(manifest):
            line = f"no training case has {', '.join(missing)}, so that nothing learns it; choose another split"
            manifest = manifest.model_copy(update={"warnings": (*manifest.warnings, line)})
        if not all(one.kept for one in made):
            ranks = rank_times(team.members, times, hashing)
            write_times(job.output, ranks, times, time.perf_counter() - started)
        if manifest == previous:
            log.info("nothing to do: all shards are there cases=%d shards=%s", len(names), job.output)
            return manifest
        write_manifest(job.output, manifest)
    log.info("prepared cases=%d shards=%s", len(names), job.output)
    return manifest


def _dataset_hash(cases: Mapping[str, Mapping[str, str]], labels: Mapping[str, Any] | None) -> str:
    """Of every source file, and of what the masks' numbers mean. labels: None of lesions."""
    return sha256_data(cases if labels is None else {"cases": cases, "labels": labels})


def _unplaced(cases: Mapping[str, Sequence[str]]) -> list[str]:
    """One line for all cases with files that have neither qform nor sform, the first ones by name; or none."""
    lines = [f"{case} ({', '.join(files)})" for case, files in cases.items() if files]
    if not lines:
        return []
    more = f" and {len(lines) - CASES_NAMED} more" if len(lines) > CASES_NAMED else ""
    return [
        f"{len(lines)} of {len(cases)} cases have files with neither qform nor sform, so that nothing tells left from "
        f"right: their first axis is taken to run to the left; {', '.join(lines[:CASES_NAMED])}{more}"
    ]


def _lesions_lost(entries: Sequence[ShardEntry]) -> list[str]:
    """One line for all cases whose lesions resampling has noticeably changed, the first ones by name; or none."""
    changed = [(entry.case, entry.counts.warning()) for entry in entries if entry.counts is not None]
    lines = [f"{case}: {warning}" for case, warning in changed if warning]
    if not lines:
        return []
    more = f"; and {len(lines) - CASES_NAMED} more, see `counts` in manifest.json" if len(lines) > CASES_NAMED else ""
    return [
        f"resampling has changed the lesions (26-connected) of {len(lines)} of {len(entries)} cases: "
        f"{'; '.join(lines[:CASES_NAMED])}{more}"
    ]


def _same_scans(recipe: AnyRecipe, found: Found, sources: Sequence[Sources]) -> list[str]:
    """A line for scans that two subjects share to the last byte: they may be on both sides of the split."""
    holders: dict[str, list[str]] = {}
    for case, files in zip(found.cases, sources, strict=True):
        for name in recipe.inputs(case):
            holders.setdefault(files[name].sha256, []).append(case.id)
    subject_of = {case.id: case.subject for case in found.cases}
    shared = {tuple(cases) for cases in holders.values() if len({subject_of[case] for case in cases}) > 1}
    named = [" = ".join(cases) for cases in sorted(shared)]
    return [f"one scan, byte by byte, under several subjects: {shown(named)}; keep one of them"] if named else []


def _check_complete(job: PrepareJob, found: Found) -> None:
    """Raises DatasetError naming the first incomplete cases, unless they may be skipped and others are left."""
    total = len(found.cases) + len(found.incomplete)
    if found.incomplete and not found.cases:
        raise DatasetError(
            f"{job.dataset}: none of {total} cases is complete ({found.reasons}); "
            "add the files, or choose a recipe with other modalities"
        )
    if found.incomplete and not job.skip_incomplete:
        raise DatasetError(
            f"{job.dataset}: {len(found.incomplete)} of {total} cases incomplete ({found.reasons}); add the files, "
            "choose a recipe with other modalities, or leave these cases out with --skip-incomplete"
        )
