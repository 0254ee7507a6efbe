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

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from mspipeline.campaigns import before_and_after
from mspipeline.campaigns.arrays import chains
from mspipeline.campaigns.attempt import utc_now
from mspipeline.campaigns.cell_processes import sigint_held_back
from mspipeline.campaigns.cell_state import CellState
from mspipeline.campaigns.cells import Cell, cells
from mspipeline.campaigns.dispatch import Commands, Dispatch
from mspipeline.campaigns.follow import CellsFailed, Follower, Observer
from mspipeline.campaigns.record import (
    HASHES,
    CampaignRecord,
    manifest_hashes,
    manifest_path,
    recipe_for,
    same_or_refuse,
)
from mspipeline.campaigns.scheduler import Scheduler
from mspipeline.campaigns.schedulers import scheduler_named
from mspipeline.campaigns.site import Site
from mspipeline.campaigns.state_cache import StateCache
from mspipeline.campaigns.sweep import Sweep
from mspipeline.config import PrepareJob, parse
from mspipeline.errors import (
    ConfigError,
    DataError,
    Preempted,
    RunFolderError,
    SuiteError,
    TableError,
    UsageError,
)
from mspipeline.files import read_json, write_json
from mspipeline.parallel.lock import held, hold, holder_of
from mspipeline.recipes.catalogue import AnyRecipe, recipe_of

GRACE_S = 120.0
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
        recipe: AnyRecipe | None = None,
    ) -> Campaign:
        """What `create` would make; nothing is written. recipe: that `prepare` names, where its file is to come.

        Raises ConfigError where the sweep does not fit the site, ShardError where the folder holds no shards and
        nothing is to make them.
        """
        folder = folder.resolve()
        shards = shards.resolve()
        scheduler = scheduler_named(site.executor)
        scheduler.validate(site)
        manifest = {} if prepare and not manifest_path(shards).exists() else manifest_hashes(shards)
        recipe = recipe or recipe_for(shards, prepare)
        planned = cells(sweep, shards, folder, recipe)
        for chain in chains(planned, site, scheduler, separate_jobs=sweep.separate_jobs):
            if site.container != "none":
                site.image_for(chain[0].cells[0].train.backend)
        record = CampaignRecord(
            created_utc=utc_now(),
            sweep=sweep,
            shards=shards,
            site=site,
            manifest=manifest,
            cells=tuple(cell.id for cell in planned),
            prepare=prepare,
            collect=collect,
            recipe=recipe.document,
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
        recipe: AnyRecipe | None = None,
    ) -> Campaign:
        """A new campaign in `folder`, or the one that is there if it is of the same sweep, shards and site.

        prepare: makes the shards where they are not there yet. collect: make tables when the cells are over. recipe: as
        in `draft`.
        Raises ConfigError where another campaign is there, and as `draft` does.
        """
        new = cls.draft(folder, sweep, shards, site, prepare=prepare, collect=collect, recipe=recipe)
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
            if not record.recipe:
                found = recipe_for(record.shards, record.prepare).document
                record = record.model_copy(update={"recipe": found})
            recipe = recipe_of(record.recipe, where=f"{path}: recipe")
        except (DataError, ConfigError) as error:
            raise RunFolderError(str(error)) from error
        return cls(folder, record, cells(record.sweep, record.shards, folder, recipe))

    @property
    def recipe(self) -> AnyRecipe:
        """The recipe of the shards."""
        return recipe_of(self.record.recipe, where=f"{self.folder / 'campaign.json'}: recipe")

    @property
    def scheduler(self) -> Scheduler:
        """What takes its cells. Raises ConfigError where this installation has no such scheduler."""
        return scheduler_named(self.record.site.executor)

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

    def state_cache(self) -> StateCache:
        """The states of the cells, read anew; one that is asked again reads only what has changed."""
        return StateCache(self.scheduler, self.folder / "finished.json")

    def state(self, cache: StateCache | None = None) -> list[CellState]:
        """Every cell's state, in the order of the sweep, from its files and the queue. cache: one asked before."""
        states = (cache or self.state_cache()).states(self.cells)
        return before_and_after.explained(states, self._preparation())

    def followed(self) -> bool:
        """Whether a process runs this campaign, as far as this host can tell."""
        return held(self.folder / "lock")

    def submit(self, *, retry_failed: bool = False, commands: Commands | None = None) -> list[CellState]:
        """Hand over what is not done, and leave it alone; return the states. Raises as `run` does."""
        refuse_to_detach(self.record.site)
        campaign = self._checked()
        with self._alone():
            again = {*AGAIN, *(["failed"] if retry_failed or campaign.to_prepare else [])}
            names = {state.id for state in self.state() if state.state in again}
            if names:
                with sigint_held_back():
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
                self.scheduler,
                [cell for cell in self.cells if not only or cell.id in only],
                campaign._dispatch(commands),
                observer and (lambda states: observer(before_and_after.explained(states, self._preparation()))),
                poll_s=poll_s,
                grace_s=grace_s,
            )
            # Where there are no shards yet, what failed is the preparation.
            return campaign._followed(follower, retry_failed=retry_failed or campaign.to_prepare)

    def _checked(self) -> Campaign:
        """This campaign, its shards those it began with. Raises ConfigError where they are others by now."""
        self.scheduler.refuse_if_absent(str(self.folder))
        campaign = self.prepared()
        if campaign.to_prepare and self.scheduler.queues:
            return campaign
        found = manifest_hashes(campaign.record.shards)
        if found != campaign.record.manifest:
            changed = [name for name in HASHES if found[name] != campaign.record.manifest[name]]
            raise ConfigError(
                f"{self.record.shards}: not the shards this campaign began with ({', '.join(changed)} differ); "
                "prepare the old ones again or start a new campaign in another folder"
            )
        return campaign

    def _dispatch(self, commands: Commands | None) -> Dispatch:
        record = self.record
        return Dispatch(
            self.folder,
            record.sweep,
            record.shards,
            record.site,
            self.scheduler,
            self.cells,
            prepare=record.prepare if self.to_prepare else None,
            collect=record.collect,
            commands=commands,
        )

    def _followed(self, follower: Follower, *, retry_failed: bool) -> list[CellState]:
        """Follow the cells, then the job of the tables, if any; name the preparation where no cell could begin."""
        ended: list[CellState] | SuiteError
        try:
            ended = follower.run(retry_failed=retry_failed)
        except (CellsFailed, Preempted) as error:
            ended = error
        except BaseException:
            before_and_after.stop(self.folder, self.scheduler)
            raise
        self.prepared()
        no_tables: TableError | None = None
        if self.record.collect:
            try:
                before_and_after.wait_for_tables(self.folder, self.scheduler)
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

    def _preparation(self) -> before_and_after.StepState | None:
        """The state of a preparation that the cells need; None where they need none."""
        return before_and_after.step_state(self.folder, "prepare", self.scheduler) if self.to_prepare else None

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


def refuse_to_detach(site: Site) -> None:
    """Raise UsageError where a site's cells run only while the process that started them stays."""
    if not scheduler_named(site.executor).queues:
        raise UsageError(f"site {site.name}: its cells run only while somebody stays; leave out --detach")
