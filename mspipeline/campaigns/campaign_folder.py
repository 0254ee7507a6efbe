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

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from mspipeline.campaigns import before_and_after
from mspipeline.campaigns.arrays import chains
from mspipeline.campaigns.cell_state import CellState
from mspipeline.campaigns.cells import Cell, cells
from mspipeline.campaigns.record import CampaignRecord, manifest_hashes, manifest_path, recipe_for, same_or_refuse
from mspipeline.campaigns.scheduler import Scheduler
from mspipeline.campaigns.schedulers import scheduler_named
from mspipeline.campaigns.site import Site
from mspipeline.campaigns.state_cache import StateCache
from mspipeline.campaigns.sweep import Sweep
from mspipeline.config import PrepareJob, parse
from mspipeline.errors import ConfigError, DataError, RunFolderError
from mspipeline.files import read_json, write_json
from mspipeline.parallel.lock import held
from mspipeline.recipes.catalogue import AnyRecipe, recipe_of
from mspipeline.runs import utc_now


@dataclass(frozen=True)
class CampaignFolder:
    """What a campaign is and how far it is, read from its folder; `campaign.Campaign` also runs it."""

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
    ) -> Self:
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
    ) -> Self:
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
        new.write()
        return new

    @classmethod
    def open(cls, folder: Path) -> Self:
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

    def prepared(self) -> Self:
        """This campaign with the hashes of its shards, once they are there."""
        if self.record.manifest or self.to_prepare:
            return self
        found = self.record.model_copy(update={"manifest": manifest_hashes(self.record.shards)})
        campaign = replace(self, record=found)
        campaign.write()
        return campaign

    def state_cache(self) -> StateCache:
        """The states of the cells, read anew; one that is asked again reads only what has changed."""
        return StateCache(self.scheduler, self.folder / "finished.json")

    def state(self, cache: StateCache | None = None) -> list[CellState]:
        """Every cell's state, in the order of the sweep, from its files and the queue. cache: one asked before."""
        states = (cache or self.state_cache()).states(self.cells)
        return before_and_after.explained(states, self.preparation())

    def followed(self) -> bool:
        """Whether a process runs this campaign, as far as this host can tell."""
        return held(self.folder / "lock")

    def preparation(self) -> before_and_after.StepState | None:
        """The state of a preparation that the cells need; None where they need none."""
        return before_and_after.step_state(self.folder, "prepare", self.scheduler) if self.to_prepare else None

    def write(self) -> None:
        """Write campaign.json."""
        write_json(self.folder / "campaign.json", self.record.model_dump(mode="json"))
