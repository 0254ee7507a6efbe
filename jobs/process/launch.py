"""Run a job from its configuration file, bare or under the supervisor."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path

from mspipeline import startup
from mspipeline.backends.process_group import ALONE, PeersLost, ProcessGroup
from mspipeline.config import Strict, read_config
from mspipeline.console import explain, say_error, say_warning, wants_progress
from mspipeline.errors import STOPPED, Interrupted, Preempted, StorageError, UsageError
from mspipeline.files import read_json, write_json
from mspipeline.jobs.job import JobContext, Watched
from mspipeline.jobs.process import data_parallel
from mspipeline.jobs.process import supervise as supervisor
from mspipeline.jobs.process.run_lock import hold_run
from mspipeline.jobs.registry import JOBS, SUPERVISE, AnyJob
from mspipeline.runs import RunPaths, TelemetryPaths
from mspipeline.telemetry.events import EventWriter
from mspipeline.telemetry.schema import Identity

Asked = Path | Strict
"""A job's settings, or the file that holds them."""


def run_supervised(name: str, asked: Asked, *, progress: str = "auto", debug: bool = False) -> int:
    """Run a job as a child under the sampler; its telemetry goes to the job's folder. Returns the child's exit code.

    asked: the settings, which are then kept as FOLDER/jobs/NAME.json, or the file that holds them. The child reads a
    file of its own, in the folder of its attempt. Of a training of several processes, rank 0 is watched, and it alone
    writes. A job that only reads its folder runs without a supervisor where that folder cannot be written, and no
    telemetry is kept.
    The child prints the line of its error; one that a signal ended could not, so it is printed here.
    Raises UsageError for a job that runs bare only, FolderInUse where a job that writes its folder finds another one of
    its kind there.
    """
    job = JOBS[name]
    watched = _watched(job)
    settings = _settings(job, asked)
    if rank_of(name, settings) > 0:
        return run_bare(name, settings, progress="off", debug=debug)
    run_id = watched.run_id(settings)
    paths = RunPaths(watched.folder(settings))
    with hold_run(paths.root, job) if job.holds_its_folder else nullcontext():
        try:
            if not isinstance(asked, Path):
                write_json(paths.job_config(name), settings.model_dump(mode="json"))
            telemetry = paths.new_attempt(name)
            write_json(telemetry.config, settings.model_dump(mode="json"))
        except StorageError as error:
            if job.holds_its_folder:
                raise
            say_warning(f"{paths.root}: cannot be written, so no telemetry is kept of this {name} ({_reason(error)})")
            return run_bare(name, settings, progress=progress, debug=debug)
        command = [sys.executable, "-P", "-m", "mspipeline.jobs", name, str(telemetry.config)]
        command += ["--telemetry", str(telemetry.folder), "--progress", progress, *(["--debug"] if debug else [])]
        code = supervisor.supervise(
            command,
            telemetry,
            run_id=run_id,
            restart_count=telemetry.attempt,
            rank=supervisor.rank(os.environ),
            visible_gpus=supervisor.visible_gpus(os.environ),
        )
        _say_signal(name, telemetry)
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one job and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m mspipeline.jobs",
        description="Run a job of the suite or of a package as a container does, bare or under the supervisor.",
        epilog="example: python -m mspipeline.jobs supervise train runs/ID/jobs/train.json",
    )
    parser.add_argument(SUPERVISE, nargs="?", choices=[SUPERVISE], help="sample the job while it runs")
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

    telemetry: the folder of this attempt, where a supervisor watches; it then holds the job's folder.
    """
    others_tell = False
    if telemetry is not None:
        startup.name_temporary_folder(str(telemetry))
    try:
        job = JOBS[name]
        with ExitStack() as stack:
            team = stack.enter_context(job.open_team(os.environ)) if job.open_team else None
            if job.open_team and team is None:  # another MPI rank than 0: its share is done
                return 0
            settings = _settings(job, asked)
            group = _group(job, settings)
            others_tell = group is not None and group.rank > 0
            if group is not None:
                data_parallel.require_address(group)
            if job.holds_its_folder and telemetry is None and not others_tell and not data_parallel.is_launched():
                stack.enter_context(hold_run(_watched(job).folder(settings), job))
            if group is None and job.processes is not None and isinstance(asked, Path):
                return data_parallel.start(
                    job.processes.number(settings),
                    partial(_command_of, name, asked, telemetry, progress, debug),
                    job=name,
                    share_cores=job.processes.share_cores(settings),
                )
            events = stack.enter_context(_events(job, settings, telemetry))
            attempt = 0 if telemetry is None else TelemetryPaths(telemetry).attempt
            job.run(settings, JobContext(events, wants_progress(progress), attempt, group or ALONE, team))
    except PeersLost as error:
        # Nothing may wait at its end for those that are gone, as JAX does.
        if not data_parallel.is_launched():
            explain(error, debug=debug)
        startup.unwritten()
        os._exit(error.exit_code)
    except (Exception, KeyboardInterrupt) as error:
        if others_tell and isinstance(error, (Interrupted, Preempted)):
            return error.exit_code  # a stop of all
        return explain(error, debug=debug)
    return 0


def rank_of(name: str, settings: Strict) -> int:
    """This process's rank in a job of several processes; 0 elsewhere."""
    group = _group(JOBS[name], settings)
    return group.rank if group else 0


def _settings(job: AnyJob, asked: Asked) -> Strict:
    settings: Strict = read_config(asked, job.schema) if isinstance(asked, Path) else asked
    return settings


def _watched(job: AnyJob) -> Watched[Strict]:
    if job.watched is None:
        supervised = ", ".join(name for name, each in JOBS.working().items() if each.watched is not None)
        raise UsageError(f"only {supervised} run under the supervisor; received: {job.name}")
    return job.watched


def _group(job: AnyJob, settings: Strict) -> ProcessGroup | None:
    """This process's place among those that do a job together; None where they are still to be started."""
    return data_parallel.place(job.processes.number(settings), os.environ) if job.processes else ALONE


def _events(job: AnyJob, settings: Strict, telemetry: Path | None) -> EventWriter:
    """Takes the phases of a job; they are kept where a supervisor watches."""
    if telemetry is None:
        return EventWriter(None, Identity(""))
    paths = TelemetryPaths(telemetry)
    identity = Identity(_watched(job).run_id(settings), paths.attempt, supervisor.rank(os.environ))
    return EventWriter(paths.events, identity)


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


def _command_of(name: str, config: Path, telemetry: Path | None, progress: str, debug: bool, rank: int) -> list[str]:
    """The command line of one process of a job that this one starts; rank 0 alone has telemetry and progress."""
    own = ["--progress", progress if rank == 0 else "off", *(["--debug"] if debug else [])]
    watched = ["--telemetry", str(telemetry)] if rank == 0 and telemetry else []
    return [sys.executable, "-P", "-m", "mspipeline.jobs", name, str(config), *own, *watched]
