"""A campaign run: submitted, followed to its end, resumed; by one process at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from mspipeline.campaigns import before_and_after
from mspipeline.campaigns.campaign_folder import CampaignFolder
from mspipeline.campaigns.cell_processes import sigint_held_back
from mspipeline.campaigns.cell_state import CellState
from mspipeline.campaigns.dispatch import Commands, Dispatch
from mspipeline.campaigns.follow import CellsFailed, Follower, Observer
from mspipeline.campaigns.record import HASHES, manifest_hashes
from mspipeline.campaigns.schedulers import scheduler_named
from mspipeline.campaigns.site import Site
from mspipeline.errors import ConfigError, Preempted, SuiteError, TableError, UsageError
from mspipeline.parallel.lock import hold, holder_of

GRACE_S = 120.0
AGAIN = ("pending", "interrupted", "absent")


@dataclass(frozen=True)
class Campaign(CampaignFolder):
    """One sweep on one site. `Campaign.create` and `Campaign.open` make it; nothing runs before `run`."""

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
                observer and (lambda states: observer(before_and_after.explained(states, self.preparation()))),
                poll_s=poll_s,
                grace_s=grace_s,
            )
            # Where there are no shards yet, what failed is the preparation.
            return campaign._followed(follower, retry_failed=retry_failed or campaign.to_prepare)

    def _checked(self) -> Self:
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
        preparation = self.preparation()
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
