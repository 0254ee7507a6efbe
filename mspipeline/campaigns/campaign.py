"""A campaign: one sweep on one site, in a folder that keeps all of its state.

CAMPAIGN/
  campaign.json              the sweep as resolved, shards and their hashes, site, cells: written before anything runs;
                             the hashes once there are shards, where the campaign prepares them itself
  cells/<id>/                each cell's run folder (see mspipeline.runs), and in it:
    jobs/{train,evaluate}.json, submission.json, cell.json, lock
  prepare/  collect/         the same of the jobs before and after the cells; recipe.json, shards/  what is prepared
  tables/  gaps/             what `collect` writes, and `run.json` of cells that never began, for the tables
  certificates/              where cells of one network on several backends look for certificates
  logs/<id>/<n>/             what submitit and the cell's programs wrote, one folder per submission
  lock                       held by the process that runs the campaign
  finished.json              of a campaign of many cells: those that are done, so that nobody reads their files again
  cancel                     there while somebody asks that process to stop
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from mspipeline.campaigns import before_and_after as around
from mspipeline.campaigns.arrays import chains
from mspipeline.campaigns.attempt import read_attempt, utc_now
from mspipeline.campaigns.cells import Cell, cells
from mspipeline.campaigns.dispatch import Commands, Dispatch
from mspipeline.campaigns.follow import CellsFailed, Follower, Observer
from mspipeline.campaigns.progress import CellState
from mspipeline.campaigns.record import HASHES, CampaignRecord, manifest_hashes, manifest_path, same_or_refuse
from mspipeline.campaigns.site import Site
from mspipeline.campaigns.state_cache import StateCache
from mspipeline.campaigns.sweep import Sweep
from mspipeline.config import PrepareJob, parse
from mspipeline.errors import (
    ConfigError,
    DataError,
    Interrupted,
    Preempted,
    RunFolderError,
    SuiteError,
    TableError,
    UsageError,
)
from mspipeline.files import read_json, write_bytes, write_json
from mspipeline.parallel.lock import held, hold, holder_of
from mspipeline.slurm.submission import queue, submit

GRACE_S = 120.0
PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol")
AGAIN = ("pending", "interrupted", "absent")


@dataclass(frozen=True)
class Campaign:
    """One sweep on one site. `Campaign.create` and `Campaign.open` make it; nothing runs before `run`."""

    folder: Path
    record: CampaignRecord
    cells: list[Cell] = field(repr=False)

    @classmethod
    def draft(
        cls,
        folder: Path,
        sweep: Sweep,
        shards: Path,
        site: Site,
        *,
        prepare: PrepareJob | None = None,
        collect: bool = False,
    ) -> Campaign:
        """What `create` would make; nothing is written.

        Raises ConfigError where the sweep does not fit the site, ShardError where the folder holds no shards and
        nothing is to make them.
        """
        folder = folder.resolve()
        shards = shards.resolve()
        planned = cells(sweep, shards, folder)
        for chain in chains(planned, site, separate_jobs=sweep.separate_jobs):
            if site.container != "none":
                site.image_for(chain[0].cells[0].train.backend)
        record = CampaignRecord(
            created_utc=utc_now(),
            sweep=sweep,
            shards=shards,
            site=site,
            manifest={} if prepare and not manifest_path(shards).exists() else manifest_hashes(shards),
            cells=tuple(cell.id for cell in planned),
            prepare=prepare,
            collect=collect,
        )
        return cls(folder, record, planned)

    @classmethod
    def create(
        cls,
        folder: Path,
        sweep: Sweep,
        shards: Path,
        site: Site,
        *,
        prepare: PrepareJob | None = None,
        collect: bool = False,
    ) -> Campaign:
        """A new campaign in `folder`, or the one that is there if it is of the same sweep, shards and site.

        prepare: makes the shards where they are not there yet. collect: make tables when the cells are over.
        Raises ConfigError where another campaign is there, and as `draft` does.
        """
        new = cls.draft(folder, sweep, shards, site, prepare=prepare, collect=collect)
        if (new.folder / "campaign.json").exists():
            there = cls.open(new.folder).prepared()
            same_or_refuse(new.folder, there.record, new.record)
            return there
        new._write()
        return new

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

    @property
    def to_prepare(self) -> bool:
        """Whether the shards are still to be made."""
        return self.record.prepare is not None and not manifest_path(self.record.shards).exists()

    def prepared(self) -> Campaign:
        """This campaign with the hashes of its shards, once they are there."""
        if self.record.manifest or self.to_prepare:
            return self
        found = self.record.model_copy(update={"manifest": manifest_hashes(self.record.shards)})
        campaign = replace(self, record=found)
        campaign._write()
        return campaign

    def look(self) -> StateCache:
        """What tells the states of the cells; one that is asked again reads only what has changed."""
        return StateCache(self.folder / "finished.json")

    def state(self, look: StateCache | None = None) -> list[CellState]:
        """Every cell's state, in the order of the sweep, from files alone. look: one that was asked before."""
        return self._explained((look or self.look()).states(self.cells))

    def followed(self) -> bool:
        """Whether a process runs this campaign, as far as this host can tell."""
        return held(self.folder / "lock")

    def submit(self, *, retry_failed: bool = False, commands: Commands | None = None) -> list[CellState]:
        """Hand to SLURM what is not done, and leave it alone; return the states. Raises as `run` does."""
        if self.record.site.executor != "slurm":
            raise UsageError(
                f"site {self.record.site.name}: its cells run only while somebody stays; leave out --detach"
            )
        campaign = self._checked()
        with self._alone():
            again = {*AGAIN, *(["failed"] if retry_failed or campaign.to_prepare else [])}
            names = {state.id for state in self.state() if state.state in again}
            if names:
                with submit.sigint_held_back():
                    campaign._dispatch(commands)([cell for cell in self.cells if cell.id in names])
        return campaign.state()

    def run(
        self,
        observer: Observer | None = None,
        *,
        poll_s: float = 0.5,
        grace_s: float = GRACE_S,
        retry_failed: bool = False,
        commands: Commands | None = None,
        only: Collection[str] = (),
    ) -> list[CellState]:
        """Run what is not done and follow it to its end; return the last states, all of them `done`.

        Cells that still run from an earlier process are followed, never started beside. Cells that were interrupted are
        run again, failed ones only with `retry_failed`. observer: called at each poll with all states. commands: what
        a cell runs, `job_commands` where None. only: cells, by name, that alone are run and followed.
        Ctrl-C, or `cancel` from elsewhere, asks the running cells to end and waits `grace_s` for them; a second Ctrl-C
        kills them.

        Raises Interrupted after that, CellsFailed where cells failed, Preempted where they ended early,
        UsageError where another process runs this campaign, ConfigError where the shards are others by now.
        """
        campaign = self._checked()
        with self._alone():
            follower = Follower(
                self.folder,
                self.record.site,
                [cell for cell in self.cells if not only or cell.id in only],
                campaign._dispatch(commands),
                observer and (lambda states: observer(self._explained(states))),
                poll_s=poll_s,
                grace_s=grace_s,
            )
            # Where there are no shards yet, what failed is the preparation.
            return campaign._followed(follower, retry_failed=retry_failed or campaign.to_prepare)

    def cancel(self, *, grace_s: float = GRACE_S, poll_s: float = 0.2) -> list[CellState]:
        """Stop this campaign from another terminal: ask all that runs to end, wait up to `grace_s`; return the states.

        Raises UsageError where cells run on another host, which cannot be reached from here, and where some run still
        because SLURM does not answer; ConfigError where its programs are not on this machine.
        """
        self._refuse_without_slurm()
        cancel_flag = self.folder / "cancel"
        deadline = time.monotonic() + grace_s
        while True:
            followed = held(self.folder / "lock")
            running = [state.id for state in self.state() if state.state == "running"]
            if not followed and self.record.site.executor == "slurm":
                around.stop(self.folder)
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
        states = self.state()
        if self.record.site.executor == "slurm" and not queue.QUEUE.answers():
            left = sum(state.state == "running" for state in states)
            if left:
                raise UsageError(
                    f"{self.folder}: SLURM does not answer, and {left} cells may run on; "
                    f"`mspipeline cancel {self.folder}` again when it does"
                )
        return states

    def _checked(self) -> Campaign:
        """This campaign, its shards those it began with. Raises ConfigError where they are others by now."""
        self._refuse_without_slurm()
        campaign = self.prepared()
        if campaign.to_prepare and self.record.site.executor == "slurm":
            return campaign
        found = manifest_hashes(campaign.record.shards)
        if found != campaign.record.manifest:
            changed = [name for name in HASHES if found[name] != campaign.record.manifest[name]]
            raise ConfigError(
                f"{self.record.shards}: not the shards this campaign began with ({', '.join(changed)} differ); "
                "prepare the old ones again or start a new campaign in another folder"
            )
        return campaign

    def _refuse_without_slurm(self) -> None:
        """Raise ConfigError where this campaign runs on SLURM and this machine has none: nothing could be asked."""
        absent = [each for each in PROGRAMS if shutil.which(each) is None]
        if self.record.site.executor == "slurm" and absent:
            raise ConfigError(
                f"{self.folder}: its cells run on SLURM, and this machine has no {', '.join(absent)} on the PATH; "
                "work on a login node of the cluster, or load the module that has SLURM"
            )

    def _dispatch(self, commands: Commands | None) -> Dispatch:
        record = self.record
        return Dispatch(
            self.folder,
            record.sweep,
            record.shards,
            record.site,
            self.cells,
            prepare=record.prepare if self.to_prepare else None,
            collect=record.collect,
            commands=commands,
        )

    def _followed(self, follower: Follower, *, retry_failed: bool) -> list[CellState]:
        """Follow the cells, then, on SLURM, the tables; say it once where no cell could begin for want of shards."""
        ended: list[CellState] | SuiteError
        try:
            ended = follower.run(retry_failed=retry_failed)
        except (CellsFailed, Preempted) as error:
            ended = error
        except BaseException:
            if self.record.site.executor == "slurm":
                around.stop(self.folder)
            raise
        self.prepared()
        no_tables: TableError | None = None
        if self.record.collect and self.record.site.executor == "slurm":
            try:
                self._wait_for_tables()
            except TableError as error:
                no_tables = error
        # The first cause is the one to report: without shards there are no cells, and without cells no tables.
        preparation = self._preparation()
        if isinstance(ended, SuiteError) and preparation is not None and preparation.state in ("failed", "interrupted"):
            raise CellsFailed(
                f"{self.folder}: its scans were not prepared ({preparation.message}; log: {preparation.log}), so its "
                f"cells did not begin; correct the cause, then `mspipeline resume {self.folder}`",
                preparation.exit_code,
            ) from ended
        if isinstance(ended, SuiteError):
            raise ended
        if no_tables is not None:
            raise no_tables
        return ended

    def _wait_for_tables(self) -> None:
        """Stay until `collect` is over. Raises TableError where it went wrong, Interrupted on Ctrl-C."""
        try:
            while (tables := around.step_state(self.folder, "collect")).state == "running":
                time.sleep(1.0)
        except KeyboardInterrupt:
            raise Interrupted(f"{self.folder}: all cells are over; their tables are being written still") from None
        if tables.state in ("failed", "interrupted"):
            raise TableError(
                f"{self.folder}: no tables ({tables.message}; log: {tables.log}); "
                f"make them with `mspipeline collect {self.folder}`"
            )

    def _preparation(self) -> around.StepState | None:
        """The state of a preparation that the cells need; None where they need none."""
        return around.step_state(self.folder, "prepare") if self.to_prepare else None

    def _explained(self, states: list[CellState]) -> list[CellState]:
        """The states with what cells wait for, or why they never began, where that is the preparation."""
        preparation = self._preparation()
        if preparation is None or preparation.state == "pending":
            return states
        explained = []
        for each in states:
            if preparation.state == "running" and each.waits:
                explained.append(replace(each, message=f"waiting for the preparation{_after_semicolon(each.message)}"))
            elif preparation.state in ("failed", "interrupted") and each.state != "running" and not each.node:
                explained.append(replace(each, message=f"not prepared: {preparation.message}; log: {preparation.log}"))
            else:
                explained.append(each)
        return explained

    def _write(self) -> None:
        write_json(self.folder / "campaign.json", self.record.model_dump(mode="json"))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Refuse a second process that would run this campaign."""
        path = self.folder / "lock"
        with hold(path, wait_s=1.0) as lock:
            if lock is None:
                raise UsageError(
                    f"{self.folder}: already run by {holder_of(path) or 'another process'}; follow it with "
                    f"`mspipeline status {self.folder}` or stop it with `mspipeline cancel {self.folder}`"
                )
            (self.folder / "cancel").unlink(missing_ok=True)
            yield


def _after_semicolon(message: str) -> str:
    """What a cell's message says of its job besides what it does: that SLURM does not answer, that it is held."""
    _, mark, rest = message.partition("; ")
    return mark + rest


def _unfollowed(cell: Cell) -> submit.Pair:
    """The job of a cell that no process follows. Raises UsageError where it cannot be reached from here."""
    folder = cell.train.run_folder
    submission = submit.read_submission(folder)
    if submission is not None and submission.executor == "local" and submission.host != socket.gethostname():
        raise UsageError(f"{cell.id}: runs on {submission.host}; cancel it there")
    return submission, read_attempt(folder)
