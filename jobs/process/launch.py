"""Jobs by name, each run from its configuration file, bare or under the supervisor."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path

from mspipeline import jobs, startup
from mspipeline.backends.process_group import ALONE, PeersLost, ProcessGroup
from mspipeline.config import (
    CertifyJob,
    CollectJob,
    EvaluateJob,
    PredictJob,
    PrepareJob,
    Settings,
    Strict,
    TrainJob,
    read_config,
)
from mspipeline.console import CaseProgress, TrainingProgress, explain, say_error, say_warning, wants_progress
from mspipeline.errors import STOPPED, Interrupted, Preempted, StorageError, UsageError
from mspipeline.files import read_json, write_json
from mspipeline.jobs.process import data_parallel
from mspipeline.jobs.process import supervise as supervisor
from mspipeline.jobs.process.run_lock import WRITES, hold_run
from mspipeline.jobs.process.stop import StopRequest
from mspipeline.provenance import provenance
from mspipeline.runs import RunPaths, TelemetryPaths, read_record, run_id
from mspipeline.telemetry.events import EventWriter
from mspipeline.telemetry.schema import Identity

Asked = Path | Strict
"""A job, or the file that holds it."""
Run = Callable[[Asked, EventWriter, bool, int], None]


def _job(asked: Asked, schema: type[Settings]) -> Settings:
    return asked if isinstance(asked, schema) else read_config(Path(str(asked)), schema)


def _train(asked: Asked, events: EventWriter, progress: bool, attempt: int) -> None:
    stop = StopRequest("state saved; run the same command again to continue")
    stop.listen()
    from mspipeline.jobs.work.train import train

    origin = provenance(
        commit=os.environ.get("MSPIPELINE_COMMIT"),
        image_digest=os.environ.get("MSPIPELINE_IMAGE_DIGEST"),
        visible_gpus=supervisor.visible_gpus(os.environ),
        environ=os.environ,
    )
    job = _job(asked, TrainJob)
    group = data_parallel.place(job.processes, os.environ) or ALONE
    with TrainingProgress(enabled=progress and group.rank == 0) as observer:
        train(job, events=events, observer=observer, stop=stop, restart_count=attempt, origin=origin, group=group)


def _evaluate(asked: Asked, events: EventWriter, progress: bool, attempt: int) -> None:
    stop = StopRequest("earlier scores are kept; run the same command again to score")
    stop.listen()
    from mspipeline.jobs.work.evaluate import evaluate

    with CaseProgress("evaluate", enabled=progress) as report:
        evaluate(_job(asked, EvaluateJob), events=events, stop=stop, report=report)


def _predict(asked: Asked, events: EventWriter, progress: bool, attempt: int) -> None:
    stop = StopRequest("finished maps are kept; run the same command again to make all")
    stop.listen()
    from mspipeline.jobs.work.predict import predict

    with CaseProgress("predict", enabled=progress) as report:
        predict(_job(asked, PredictJob), events=events, stop=stop, report=report, warn=say_warning)


def _prepare(asked: Asked, events: EventWriter, progress: bool, attempt: int) -> None:
    from mspipeline.jobs.work.prepare import prepare, prepare_team

    with prepare_team(os.environ) as team:
        if team is None:  # another MPI rank than 0: its share is done
            return
        with CaseProgress("prepare", enabled=progress) as report:
            manifest = prepare(_job(asked, PrepareJob), report=report, team=team)
        for warning in manifest.warnings:
            say_warning(warning)


def _collect(asked: Asked, events: EventWriter, progress: bool, attempt: int) -> None:
    from mspipeline.jobs.collect import collect_job

    collect_job(_job(asked, CollectJob)).check()


def _certify(asked: Asked, events: EventWriter, progress: bool, attempt: int) -> None:
    from mspipeline.jobs.work.certify import certify_job

    certify_job(_job(asked, CertifyJob))


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


def run_supervised(name: str, asked: Path | RunJob, *, progress: str = "auto", debug: bool = False) -> int:
    """Run a job as a child under the sampler; its telemetry goes to the run folder. Returns the child's exit code.

    asked: the job, which is then kept as RUN/jobs/NAME.json, or the file that holds it. The child reads a file of its
    own, in the folder of its attempt. Of a training of several processes, rank 0 is watched, and it alone writes. A
    prediction with a run that cannot be written runs without a supervisor, and no telemetry is kept.
    The child prints the line of its error; one that a signal ended could not, so it is printed here.
    Raises FolderInUse where a training or an evaluation finds another one on its run.
    """
    if name not in SUPERVISED:
        raise UsageError(f"only {', '.join(SUPERVISED)} run under the supervisor; received: {name}")
    job: RunJob = _job(asked, SUPERVISED[name])
    if rank_of(job) > 0:
        return run_bare(name, job, progress="off", debug=debug)
    named = _run_id(job)
    paths = RunPaths(job.run_folder)
    with hold_run(job.run_folder, name) if name in WRITES else nullcontext():
        try:
            if not isinstance(asked, Path):
                write_json(paths.job_config(name), job.model_dump(mode="json"))
            telemetry = paths.new_attempt(name)
            write_json(telemetry.config, job.model_dump(mode="json"))
        except StorageError as error:
            if name in WRITES:
                raise
            say_warning(f"{paths.root}: cannot be written, so no telemetry is kept of this {name} ({_reason(error)})")
            return run_bare(name, job, progress=progress, debug=debug)
        command = [sys.executable, "-P", "-m", "mspipeline.jobs", name, str(telemetry.config)]
        command += ["--telemetry", str(telemetry.folder), "--progress", progress, *(["--debug"] if debug else [])]
        code = supervisor.supervise(
            command,
            telemetry,
            run_id=named,
            restart_count=telemetry.attempt,
            rank=supervisor.rank(os.environ),
            visible_gpus=supervisor.visible_gpus(os.environ),
        )
        _say_signal(name, telemetry)
    return code


def _reason(error: StorageError) -> str:
    cause = error.__cause__
    return cause.strerror or str(error) if isinstance(cause, OSError) else str(error)


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
    if not given.supervise:
        return run_bare(given.name, given.config, telemetry=given.telemetry, progress=given.progress, debug=given.debug)
    try:
        return run_supervised(given.name, given.config, progress=given.progress, debug=given.debug)
    except (Exception, KeyboardInterrupt) as error:
        return explain(error, debug=given.debug)


def run_bare(name: str, asked: Asked, *, telemetry: Path | None = None, progress: str, debug: bool) -> int:
    """Run a job in this process, or start the processes that share it, and return its exit code.

    telemetry: the folder of this attempt, where a supervisor watches; it then holds the run.
    """
    others_tell = False
    if telemetry is not None:
        startup.name_temporary_folder(str(telemetry))
    try:
        with ExitStack() as stack:
            group: ProcessGroup | None = ALONE
            if name == "train":
                training = _job(asked, TrainJob)
                group = data_parallel.place(training.processes, os.environ)
                others_tell = group is not None and group.rank > 0
                if group is not None:
                    data_parallel.require_address(group)
            if name in WRITES and telemetry is None and data_parallel.LAUNCHED not in os.environ and not others_tell:
                stack.enter_context(hold_run(_job(asked, SUPERVISED[name]).run_folder, name))
            if group is None and isinstance(asked, Path):
                command = partial(_command_of, name, asked, telemetry, progress, debug)
                return data_parallel.start(training.processes, command, share_cores=training.threads == 0)
            draws = wants_progress(progress)
            if telemetry is None:
                with EventWriter(None, Identity("")) as events:
                    JOBS[name](asked, events, draws, 0)
                return 0
            paths = TelemetryPaths(telemetry)
            identity = Identity(_run_id(_job(asked, SUPERVISED[name])), paths.attempt, supervisor.rank(os.environ))
            with EventWriter(paths.events, identity) as events:
                JOBS[name](asked, events, draws, paths.attempt)
    except PeersLost as error:
        # Nothing may wait at its end for those that are gone, as JAX does.
        if data_parallel.LAUNCHED not in os.environ:
            explain(error, debug=debug)
        startup.unwritten()
        os._exit(error.exit_code)
    except (Exception, KeyboardInterrupt) as error:
        if others_tell and isinstance(error, (Interrupted, Preempted)):
            return error.exit_code  # a stop of all
        return explain(error, debug=debug)
    return 0


def rank_of(job: RunJob) -> int:
    """This process's rank in a training of several; 0 elsewhere."""
    group = data_parallel.place(job.processes, os.environ) if isinstance(job, TrainJob) else None
    return group.rank if group else 0


def _command_of(name: str, config: Path, telemetry: Path | None, progress: str, debug: bool, rank: int) -> list[str]:
    """The command line of one process of a training that this one starts; rank 0 alone has telemetry and progress."""
    own = ["--progress", progress if rank == 0 else "off", *(["--debug"] if debug else [])]
    watched = ["--telemetry", str(telemetry)] if rank == 0 and telemetry else []
    return [sys.executable, "-P", "-m", "mspipeline.jobs", name, str(config), *own, *watched]
