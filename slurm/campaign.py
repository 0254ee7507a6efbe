"""A campaign: one sweep on one site, in a folder that keeps all of its state.

CAMPAIGN/
  campaign.json              the sweep as resolved, shards and their hashes, site, cells: written before anything runs
  cells/<id>/                each cell's run folder (see mspipeline.runs), and in it:
    jobs/{train,evaluate}.json, submission.json, cell.json, lock
  certificates/              where cells of one network on several backends look for certificates
  logs/<id>/<n>/             what submitit and the cell's programs wrote, one folder per submission
  lock                       held by the process that runs the campaign
  cancel                     there while somebody asks that process to stop
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mspipeline.config import Strict, parse
from mspipeline.errors import ConfigError, DataError, RunFolderError, ShardError, StorageError, UsageError
from mspipeline.files import read_json, write_bytes, write_json
from slurm import submit
from slurm.attempt import read_attempt, utc_now
from slurm.follow import Follower, Observer
from slurm.lock import held, hold
from slurm.node import Surroundings
from slurm.progress import CellState, cell_state
from slurm.site import Site
from slurm.sweep import Cell, Sweep, cells

HASHES = ("dataset_hash", "recipe_hash", "split_hash")
GRACE_S = 120.0
Commands = Callable[[Cell], list[list[str]]]


class CampaignRecord(Strict):
    """`campaign.json`. manifest: hashes of the shards' manifest. cells: their ids, in order."""

    schema_version: int = 1
    created_utc: str
    sweep: Sweep
    shards: Path
    site: Site
    manifest: dict[str, str]
    cells: tuple[str, ...]


def job_commands(cell: Cell, python: str = sys.executable) -> list[list[str]]:
    """What a cell runs: its training, then its evaluation, each under the supervisor.

    python: the interpreter; `python` in an image. -P: a folder called `jobs` where the user stands must not hide the
    package.
    """
    start = [python, "-P", "-m", "jobs", "supervise"]
    return [[*start, job, str(config_path(cell, job))] for job in ("train", "evaluate")]


def config_path(cell: Cell, job: str) -> Path:
    """The configuration file of one job of a cell, `train` or `evaluate`."""
    return cell.train.run_folder / "jobs" / f"{job}.json"


@dataclass(frozen=True)
class Campaign:
    """One sweep on one site. `Campaign.create` and `Campaign.open` make it; nothing runs before `run`."""

    folder: Path
    record: CampaignRecord
    cells: list[Cell] = field(repr=False)

    @classmethod
    def create(cls, folder: Path, sweep: Sweep, shards: Path, site: Site) -> Campaign:
        """A new campaign in `folder`, or the one that is there if it is of the same sweep, shards and site.

        Raises ConfigError where another campaign is there or the sweep does not fit the site, ShardError where the
        folder holds no shards.
        """
        folder = folder.resolve()
        shards = shards.resolve()
        planned = cells(sweep, shards, folder)
        for cell in planned:
            site.partition_for(cell.train.device)
            if site.container != "none":
                site.image_for(cell.train.backend)
        record = CampaignRecord(
            created_utc=utc_now(),
            sweep=sweep,
            shards=shards,
            site=site,
            manifest=_manifest_hashes(shards),
            cells=tuple(cell.id for cell in planned),
        )
        path = folder / "campaign.json"
        if path.exists():
            there = cls.open(folder)
            _same_or_refuse(folder, there.record, record)
            return there
        write_json(path, record.model_dump(mode="json"))
        return cls(folder, record, planned)

    @classmethod
    def open(cls, folder: Path) -> Campaign:
        """The campaign in `folder`. Raises RunFolderError where there is none or its file does not fit."""
        folder = folder.resolve()
        path = folder / "campaign.json"
        try:
            document = read_json(path, what="campaign record", remedy="name a folder that `mspipeline sweep` made")
            record = parse(document, CampaignRecord, where=str(path))
        except (DataError, ConfigError) as error:
            raise RunFolderError(str(error)) from error
        return cls(folder, record, cells(record.sweep, record.shards, folder))

    def state(self) -> list[CellState]:
        """Every cell's state, in the order of the sweep, from files alone."""
        return [cell_state(cell) for cell in self.cells]

    def run(
        self,
        observer: Observer | None = None,
        *,
        poll_s: float = 0.5,
        grace_s: float = GRACE_S,
        retry_failed: bool = False,
        commands: Commands | None = None,
    ) -> list[CellState]:
        """Run what is not done and follow it to its end; return the last states, all of them `done`.

        Cells that still run from an earlier process are followed, never started beside. Cells that were interrupted are
        run again, failed ones only with `retry_failed`. observer: called at each poll with all states. commands: what
        a cell runs, `job_commands` where None.
        Ctrl-C, or `cancel` from elsewhere, asks the running cells to end and waits `grace_s` for them; a second Ctrl-C
        kills them.

        Raises Interrupted after that, CellsFailed where cells failed, Preempted where they ended early,
        UsageError where another process runs this campaign, ConfigError where the shards are others by now.
        """
        found = _manifest_hashes(self.record.shards)
        if found != self.record.manifest:
            changed = [name for name in HASHES if found[name] != self.record.manifest[name]]
            raise ConfigError(
                f"{self.record.shards}: not the shards this campaign began with ({', '.join(changed)} differ); "
                "prepare the old ones again or start a new campaign in another folder"
            )
        with self._alone():
            follower = Follower(
                self.folder,
                self.record.site,
                self.cells,
                self._submit(commands),
                observer,
                poll_s=poll_s,
                grace_s=grace_s,
            )
            return follower.run(retry_failed=retry_failed)

    def cancel(self, *, grace_s: float = GRACE_S, poll_s: float = 0.2) -> list[CellState]:
        """Stop this campaign from another terminal: ask all that runs to end, wait up to `grace_s`; return the states.

        Raises UsageError where cells run on another host, which cannot be reached from here.
        """
        cancel_flag = self.folder / "cancel"
        deadline = time.monotonic() + grace_s
        while True:
            followed = held(self.folder / "lock")
            running = [state.id for state in self.state() if state.state == "running"]
            if not followed and not running:
                break
            if time.monotonic() > deadline:
                break
            if followed:
                write_bytes(cancel_flag, f"{socket.gethostname()} {os.getpid()}\n".encode())
            else:
                submit.stop_all([_unfollowed(cell) for cell in self.cells if cell.id in running])
            time.sleep(poll_s)
        cancel_flag.unlink(missing_ok=True)
        return self.state()

    def _submit(self, commands: Commands | None) -> Callable[[list[Cell]], list[submit.Handle]]:
        """How cells are handed to the site: those of one shape as one job array of SLURM."""
        inside = self.record.site.container != "none"

        def hand_over(given: list[Cell]) -> list[submit.Handle]:
            orders = []
            for cell in given:
                write_json(config_path(cell, "train"), cell.train.model_dump(mode="json"))
                write_json(config_path(cell, "evaluate"), cell.evaluate.model_dump(mode="json"))
                lines = commands(cell) if commands else job_commands(cell, "python" if inside else sys.executable)
                orders.append(submit.Order(cell.id, lines, cell.train.run_folder))
            handles: dict[int, submit.Handle] = {}
            for numbers in self._by_shape(given):
                first = given[numbers[0]]
                alone = len(numbers) == 1
                logs = self.folder / "logs" / (first.id if alone else "arrays")
                earlier = len(list(logs.iterdir())) if logs.exists() else 0
                together = submit.submit_together(
                    self.record.site,
                    first.train.device,
                    [orders[number] for number in numbers],
                    logs / str(earlier),
                    name=first.id if alone else self.record.sweep.name,
                    surroundings=self._surroundings(first) if self.record.site.executor == "slurm" else None,
                )
                handles.update(zip(numbers, together, strict=True))
            return [handles[number] for number in range(len(given))]

        return hand_over

    def _by_shape(self, given: list[Cell]) -> list[list[int]]:
        """Numbers of the cells that ask for the same partition and see the same image, in their order."""
        shapes: dict[tuple[str, str], list[int]] = {}
        for number, cell in enumerate(given):
            backend = cell.train.backend if self.record.site.container != "none" else ""
            shapes.setdefault((self.record.site.partition_for(cell.train.device)[0], backend), []).append(number)
        return list(shapes.values())

    def _surroundings(self, cell: Cell) -> Surroundings:
        """What a cell's commands are given on a node of SLURM."""
        site = self.record.site
        if site.container == "none":
            return Surroundings(scratch=site.scratch)
        return Surroundings(
            container=site.container,
            image=site.image_for(cell.train.backend),
            gpu=site.partition_for(cell.train.device)[1].device == "gpu",
            folders=(str(self.folder),),
            read_only=(str(self.record.shards),),
            binds=site.binds,
            scratch=site.scratch,
            pass_environment=site.pass_environment,
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Refuse a second process that would run this campaign."""
        path = self.folder / "lock"
        with hold(path, wait_s=1.0) as descriptor:
            if descriptor is None:
                holder = path.read_text(encoding="utf-8").strip() or "another process"
                raise UsageError(
                    f"{self.folder}: already run by {holder}; follow it with `mspipeline status {self.folder}` "
                    f"or stop it with `mspipeline cancel {self.folder}`"
                )
            try:
                path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
            except OSError as error:
                raise StorageError(f"{path}: cannot be written ({error.strerror}); free some space") from error
            (self.folder / "cancel").unlink(missing_ok=True)
            yield


def _unfollowed(cell: Cell) -> submit.Pair:
    """The job of a cell that no process follows. Raises UsageError where it cannot be reached from here."""
    folder = cell.train.run_folder
    submission = submit.read_submission(folder)
    if submission is not None and submission.executor == "local" and submission.host != socket.gethostname():
        raise UsageError(f"{cell.id}: runs on {submission.host}; cancel it there")
    return submission, read_attempt(folder)


def _manifest_hashes(shards: Path) -> dict[str, str]:
    """The hashes that say which data these shards hold. Raises ShardError."""
    remedy = "make it with `mspipeline prepare`"
    try:
        manifest = read_json(shards / "manifest.json", what="shard manifest", remedy=remedy)
        return {name: str(manifest[name]) for name in HASHES}
    except DataError as error:
        raise ShardError(str(error)) from error
    except (KeyError, TypeError) as error:
        raise ShardError(f"{shards / 'manifest.json'}: not a shard manifest ({error} is missing); {remedy}") from error


def _same_or_refuse(folder: Path, there: CampaignRecord, wanted: CampaignRecord) -> None:
    """Raise ConfigError where a campaign that exists is not the one asked for."""
    compared = {"sweep", "shards", "site", "manifest"}
    differences = _differences(
        there.model_dump(mode="json", include=compared), wanted.model_dump(mode="json", include=compared)
    )
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise ConfigError(
            f"{folder}: holds another campaign ({'; '.join(differences[:3])}{more}); "
            "choose another output folder, or run the sweep file it was made with"
        )


def _differences(there: Any, wanted: Any, key: str = "") -> list[str]:
    """Where two pieces of plain data differ, in words."""
    if isinstance(there, dict) and isinstance(wanted, dict):
        found = []
        for name in dict.fromkeys([*there, *wanted]):
            found += _differences(there.get(name), wanted.get(name), f"{key}.{name}".lstrip("."))
        return found
    return [] if there == wanted else [f"{key} is {there!r} there, {wanted!r} here"]
