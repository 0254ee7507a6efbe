"""Jobs by name, each run from its configuration file, bare or under the supervisor."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from mspipeline import jobs
from mspipeline.backends.process_group import ALONE, PeersLost
from mspipeline.config import CertifyJob, CollectJob, EvaluateJob, PredictJob, PrepareJob, TrainJob, read_config
from mspipeline.console import CaseProgress, TrainingProgress, explain, say_error, say_warning, wants_progress
from mspipeline.errors import STOPPED, Interrupted, Preempted, UsageError
from mspipeline.files import read_json
from mspipeline.jobs import processes
from mspipeline.jobs import supervise as supervisor
from mspipeline.jobs.stop import StopRequest
from mspipeline.provenance import provenance
from mspipeline.runs import RunPaths, TelemetryPaths, read_record, run_id
from mspipeline.telemetry.events import EventWriter
from mspipeline.telemetry.schema import Identity

Run = Callable[[Path, EventWriter, bool, int], None]


def _train(config: Path, events: EventWriter, progress: bool, attempt: int) -> None:
    stop = StopRequest("state saved; run the same command again to continue")
    stop.listen()
    from mspipeline.jobs.train import train

    origin = provenance(
        commit=os.environ.get("MSPIPELINE_COMMIT"),
        image_digest=os.environ.get("MSPIPELINE_IMAGE_DIGEST"),
        visible_gpus=supervisor.visible_gpus(os.environ),
        environ=os.environ,
    )
    job = read_config(config, TrainJob)
    group = processes.place(job.processes, os.environ) or ALONE
    with TrainingProgress(enabled=progress and group.rank == 0) as observer:
        train(job, events=events, observer=observer, stop=stop, restart_count=attempt, origin=origin, group=group)


def _evaluate(config: Path, events: EventWriter, progress: bool, attempt: int) -> None:
    stop = StopRequest("earlier scores are kept; run the same command again to score")
    stop.listen()
    from mspipeline.jobs.evaluate import evaluate

    with CaseProgress("evaluate", enabled=progress) as report:
        evaluate(read_config(config, EvaluateJob), events=events, stop=stop, report=report)


def _predict(config: Path, events: EventWriter, progress: bool, attempt: int) -> None:
    stop = StopRequest("finished maps are kept; run the same command again to make all")
    stop.listen()
    from mspipeline.jobs.predict import predict

    with CaseProgress("predict", enabled=progress) as report:
        predict(read_config(config, PredictJob), events=events, stop=stop, report=report)


def _prepare(config: Path, events: EventWriter, progress: bool, attempt: int) -> None:
    from mspipeline.jobs.prepare import prepare, prepare_team

    with prepare_team(os.environ) as team:
        if team is None:  # another MPI rank than 0: its share is done
            return
        with CaseProgress("prepare", enabled=progress) as report:
            manifest = prepare(read_config(config, PrepareJob), report=report, team=team)
        for warning in manifest.warnings:
            say_warning(warning)


def _collect(config: Path, events: EventWriter, progress: bool, attempt: int) -> None:
    from mspipeline.jobs.collect import collect_job

    collect_job(read_config(config, CollectJob)).check()


def _certify(config: Path, events: EventWriter, progress: bool, attempt: int) -> None:
    from mspipeline.jobs.certify import certify_job

    certify_job(read_config(config, CertifyJob))


JOBS: dict[str, Run] = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "prepare": _prepare,
    "collect": _collect,
    "certify": _certify,
}
RunJob = TrainJob | EvaluateJob | PredictJob
SUPERVISED: dict[str, type[TrainJob] | type[EvaluateJob] | type[PredictJob]] = {
    "train": TrainJob,
    "evaluate": EvaluateJob,
    "predict": PredictJob,
}


def run_supervised(name: str, config: Path, *, progress: str = "auto", debug: bool = False) -> int:
    """Run a job as a child under the sampler; its telemetry goes to the run folder. Returns the child's exit code.

    The child prints the line of its error; one that a signal ended could not, so it is printed here.
    """
    if name not in SUPERVISED:
        raise UsageError(f"only {', '.join(SUPERVISED)} run under the supervisor; received: {name}")
    job: RunJob = read_config(config, SUPERVISED[name])
    if _rank(job) > 0:  # rank 0 of a training is watched, and this one keeps out of its telemetry
        return main([name, str(config), "--progress", "off", *(["--debug"] if debug else [])])
    paths = RunPaths(job.run_folder)
    telemetry = paths.next_attempt(name)
    command = [sys.executable, "-P", "-m", "mspipeline.jobs", name, str(config), "--telemetry", str(telemetry.folder)]
    code = supervisor.supervise(
        [*command, "--progress", progress, *(["--debug"] if debug else [])],
        telemetry,
        run_id=_run_id(job),
        restart_count=telemetry.attempt,
        rank=supervisor.rank(os.environ),
        visible_gpus=supervisor.visible_gpus(os.environ),
    )
    _say_signal(name, telemetry)
    return code


def _say_signal(name: str, telemetry: TelemetryPaths) -> None:
    """The line of a child that a signal ended."""
    if not telemetry.exit.exists():
        return
    ended_by = read_json(telemetry.exit, what="record of an ended job", remedy="run the same command again")["signal"]
    if ended_by == "SIGINT":  # before Python in the child could answer it
        say_error(STOPPED)
    elif ended_by is not None:
        why = "; most often memory ran out" if ended_by == "SIGKILL" else ""
        say_error(f"{name}: the job was ended by {ended_by}{why}; run the same command again to continue")


def _run_id(job: RunJob) -> str:
    """The name of the run that a job makes or uses."""
    if not isinstance(job, TrainJob):
        return read_record(RunPaths(job.run_folder)).run_id
    from mspipeline.shards.manifest import load_manifest

    return run_id(job, load_manifest(job.shards))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one job and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m mspipeline.jobs",
        description=jobs.__doc__,
        epilog="example: python -m mspipeline.jobs supervise train runs/ID/jobs/train.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("supervise", nargs="?", choices=["supervise"], help="sample the job while it runs")
    parser.add_argument("name", choices=list(JOBS), help="the job")
    parser.add_argument("config", type=Path, help="its configuration, a TOML or JSON file")
    parser.add_argument("--telemetry", type=Path, help="folder for the job's phase events (set by the supervisor)")
    parser.add_argument("--progress", choices=["auto", "on", "off"], default="auto", help="progress bars on stderr")
    parser.add_argument("--debug", action="store_true", help="show a traceback on errors")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    others_tell = False
    try:
        if given.supervise:
            return run_supervised(given.name, given.config, progress=given.progress, debug=given.debug)
        if given.name == "train":
            training = read_config(given.config, TrainJob)
            group = processes.place(training.processes, os.environ)
            if group is None:
                command, share = partial(_command_of, given), training.threads == 0
                return processes.start(training.processes, command, share_cores=share)
            others_tell = group.rank > 0
            processes.require_address(group)
        progress = wants_progress(given.progress)
        if given.telemetry is None:
            with EventWriter(None, Identity("")) as events:
                JOBS[given.name](given.config, events, progress, 0)
        else:
            paths = TelemetryPaths(given.telemetry)
            job = read_config(given.config, SUPERVISED[given.name])
            identity = Identity(_run_id(job), paths.attempt, supervisor.rank(os.environ))
            with EventWriter(paths.events, identity) as events:
                JOBS[given.name](given.config, events, progress, paths.attempt)
    except PeersLost as error:
        # Nothing may wait at its end for those that are gone, as JAX does.
        if processes.LAUNCHED not in os.environ:
            explain(error, debug=given.debug)
        sys.stderr.flush()
        os._exit(error.exit_code)
    except (Exception, KeyboardInterrupt) as error:
        if others_tell and isinstance(error, (Interrupted, Preempted)):
            return error.exit_code  # a stop of all
        return explain(error, debug=given.debug)
    return 0


def _rank(job: RunJob) -> int:
    """This process's rank in a training of several; 0 elsewhere."""
    group = processes.place(job.processes, os.environ) if isinstance(job, TrainJob) else None
    return group.rank if group else 0


def _command_of(given: argparse.Namespace, rank: int) -> list[str]:
    """The command line of one process of a training that this one starts; rank 0 alone has telemetry and progress."""
    own = ["--progress", given.progress if rank == 0 else "off", *(["--debug"] if given.debug else [])]
    telemetry = ["--telemetry", str(given.telemetry)] if rank == 0 and given.telemetry else []
    return [sys.executable, "-P", "-m", "mspipeline.jobs", given.name, str(given.config), *own, *telemetry]
