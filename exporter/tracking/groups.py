"""Groups: what the configuration expects of each, its run, and what the operations of the run add up to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.metrics import families
from exporter.metrics.exposition import RenderedRows, encode_labels, render
from exporter.operation import OTHER
from exporter.tracking import runs
from exporter.tracking.history import NO_HISTORY, History, counted
from exporter.tracking.runs import JOIN_SLACK, NO_RUN, NOTHING, StoredGroup, sums_of
from exporter.tracking.snapshot import GroupStatus
from exporter.tracking.tombstones import KEPT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from exporter.config.settings import GroupSettings
    from exporter.tracking.cycle import Changed
    from exporter.tracking.runs import GroupKey, Run, RunChanges, RunSums
    from exporter.tracking.transitions import Moment, Tracked


NOTHING_KEPT = StoredGroup()


@dataclass(slots=True)
class WatchedGroup:
    """What is remembered of a group, what is expected of it, and the sums of its operations that are followed, by run.

    `rows` and `ended` are the points of its run, since this process began.
    """

    kept: StoredGroup = NOTHING_KEPT
    settings: GroupSettings | None = None
    followed: dict[str, RunSums] = field(default_factory=dict)
    rows: History = NO_HISTORY
    ended: History = NO_HISTORY

    def has(self, tracked: Tracked) -> bool:
        """Whether an operation belongs to the current run."""
        return self.kept.run is not None and tracked.run == self.kept.run.id

    @property
    def sums(self) -> RunSums:
        """What all operations of the run add up to."""
        run = self.kept.run
        return NOTHING if run is None else run.gone.plus(self.followed.get(run.id, NOTHING))

    def add(self, tracked: Tracked, sign: int = 1) -> None:
        """Add an operation to the sums of its run; with -1 take it out of them."""
        if tracked.run:
            sums = self.followed.pop(tracked.run, NOTHING).plus(sums_of(tracked), sign)
            if any(sums.states):
                self.followed[tracked.run] = sums

    def plot(self, now: float) -> None:
        """Note how far the run is."""
        sums = self.sums
        self.rows = counted(self.rows, now, sums.rows_processed, sums.errors)
        self.ended = counted(self.ended, now, sums.ended, sums.failed)

    def shown_run(self, now: float) -> Run | None:
        """Return the run, until 30 days after its last event."""
        run = self.kept.run
        return run if run is not None and now < run.newest + KEPT_SECONDS else None


class WatchedGroups:
    """Owned by the tracker's thread; notes in `changed` what is to be stored."""

    def __init__(self, changed: Changed) -> None:
        self.rows = RenderedRows()
        self._changed = changed
        self._groups: dict[GroupKey, WatchedGroup] = {}
        self._touched: dict[GroupKey, None] = {}
        self._statuses: dict[GroupKey, GroupStatus] = {}

    # Environments.

    def restore(self, groups: Mapping[GroupKey, StoredGroup]) -> None:
        """Begin with what is remembered; the operations follow."""
        for key, kept in groups.items():
            self._groups[key] = WatchedGroup(kept)
            self._touched[key] = None

    def configure(self, environment: str, wanted: Iterable[GroupSettings], now: Moment) -> None:
        """Expect what the configuration says of the groups of an environment."""
        settings = {each.name: each for each in wanted}
        for key in {(environment, name): None for name in settings} | self._of(environment):
            group, expected = self._group(key), settings.get(key[1])
            if group.settings != expected:
                group.settings = expected
                self._touch(key)
            since = None
            if expected is not None and expected.every is not None:
                since = now.wall if group.kept.every_since is None else group.kept.every_since
            if since != group.kept.every_since:
                self._keep(key, group.kept._replace(every_since=since))

    def _of(self, environment: str) -> dict[GroupKey, None]:
        return {key: None for key in self._groups if key[0] == environment}

    def remove_environment(self, name: str) -> None:
        """End with an environment."""
        for key in self._of(name):
            del self._groups[key]
            self._touched.pop(key, None)
            self._statuses.pop(key, None)
            self.rows.drop(key)

    def remembered(self, key: GroupKey) -> StoredGroup | None:
        """Return what is to be remembered of a group."""
        group = self._groups.get(key)
        return group.kept if group is not None and group.kept != NOTHING_KEPT else None

    def all_remembered(self, environment: str) -> dict[GroupKey, StoredGroup]:
        """Return what is to be remembered of all groups of an environment."""
        return {key: kept for key in self._of(environment) if (kept := self.remembered(key)) is not None}

    # Runs.

    def join(self, key: GroupKey, wanted: str | None, now: Moment) -> str | None:
        """Return the run of an operation that is handed over: the one that it names, else the current one.

        A run that is not known begins with it. None: there is none; what is folded into `other` has none.
        """
        if key[1] == OTHER:
            return None
        group = self._group(key)
        if wanted is None:
            current = group.shown_run(now.wall)
            wanted = current.id if current is not None else None
        elif wanted not in group.kept.past:
            self.open(key, wanted, now)
        if wanted is not None and group.kept.run is not None and wanted == group.kept.run.id:
            self._keep(key, group.kept._replace(run=group.kept.run._replace(newest=now.wall)))
        return wanted

    def open(self, key: GroupKey, run_id: str, now: Moment) -> str | None:
        """Begin a run, unless it is the current one; return None, or if it is a past one the current one's id."""
        group = self._group(key)
        run = group.kept.run
        if run is not None and run.id == run_id:
            return None
        if run is not None and run_id in group.kept.past:
            return run.id
        self._keep(key, runs.opened(group.kept, run_id, now.wall))
        group.rows = group.ended = NO_HISTORY
        return None

    def change(self, key: GroupKey, changes: RunChanges, now: Moment) -> None:
        """Take in what a job says of the current run."""
        group = self._groups[key]
        if group.kept.run is not None:
            run = runs.changed(group.kept.run, changes, group.sums, now.wall)
            self._keep(key, group.kept._replace(run=run))

    def is_older(self, tracked: Tracked) -> bool:
        """Whether Knock made an operation before its run began, so that it is of an earlier one."""
        run, record = self._group(_key(tracked)).kept.run, tracked.operation
        if run is None or tracked.run != run.id or record is None or record.inserted_at is None:
            return False
        return record.inserted_at < run.opened - JOIN_SLACK

    # Operations.

    def exchange(self, before: Tracked | None, after: Tracked | None, now: Moment) -> None:
        """Take in how an operation is now, and no more how it was; None: it is not followed."""
        if before is not None and after is not None:
            self._note_inserted(before, after, now)
        if before is not None and (after is None or _key(before) != _key(after)):
            self._leave(before, now)
            before = None
        if after is None:
            return
        key = _key(after)
        group = self._group(key)
        if before is not None:
            group.add(before, -1)
            if group.has(before):
                self._touch(key)
        group.add(after)
        if group.has(after):
            self._touch(key)
            if before is not None and before.active and not after.active and group.kept.run is not None:
                self._keep(key, group.kept._replace(run=group.kept.run._replace(newest=now.wall)))

    def counts(self, tracked: Tracked) -> bool:
        """Whether a run keeps counting an operation that is dropped: it joins no other."""
        member = self._group(_key(tracked)).has(tracked)
        return tracked.run == NO_RUN or (member and not tracked.active)

    def _leave(self, tracked: Tracked, now: Moment) -> None:
        key = _key(tracked)
        group = self._group(key)
        group.add(tracked, -1)
        if group.kept.run is not None and group.has(tracked):
            gone = group.kept.run.gone if tracked.active else group.kept.run.gone.plus(sums_of(tracked))
            self._keep(key, group.kept._replace(run=group.kept.run._replace(gone=gone, newest=now.wall)))

    def _note_inserted(self, before: Tracked, after: Tracked, now: Moment) -> None:
        known, record = before.operation if before.group == after.group else None, after.operation
        if record is None or record.inserted_at is None or (known and known.inserted_at == record.inserted_at):
            return
        kept, inserted = self._group(_key(after)).kept, min(record.inserted_at, now.wall)
        if kept.last_inserted is None or inserted > kept.last_inserted:
            self._keep(_key(after), kept._replace(last_inserted=inserted))

    # What is shown.

    def settle(self, now: Moment) -> None:
        """Date the runs that have finished, and render what was touched."""
        for key in self._touched:
            group = self._groups[key]
            run = group.kept.run
            if run is not None and (after := runs.finished(run, group.sums, now.wall)) != run:
                group.kept = group.kept._replace(run=after)
                self._changed.groups[key] = None
            if run is not None:
                group.plot(now.wall)
            status = self._statuses[key] = _status(key, group, now)
            self.rows.put(key, render(families.PER_RUN, encode_labels(families.group_labels(status)), status))
        self._touched = {}

    @property
    def statuses(self) -> tuple[GroupStatus, ...]:
        """How each group stands; as of the last `settle`."""
        return tuple(self._statuses.values())

    def step(self, now: Moment) -> None:
        """Hide the runs that had their last event 30 days ago, and show them again if the clock only went ahead."""
        for key, status in self._statuses.items():
            if (status.run is None) != (self._groups[key].shown_run(now.wall) is None):
                self._touch(key)

    def _group(self, key: GroupKey) -> WatchedGroup:
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = WatchedGroup()
        return group

    def _keep(self, key: GroupKey, kept: StoredGroup) -> None:
        self._groups[key].kept = kept
        self._changed.groups[key] = None
        self._touch(key)

    def _touch(self, key: GroupKey) -> None:
        self._touched[key] = None
        self._changed.view = True


def _key(tracked: Tracked) -> GroupKey:
    return tracked.key.environment, tracked.group


def _status(key: GroupKey, group: WatchedGroup, now: Moment) -> GroupStatus:
    kept, settings, run = group.kept, group.settings, group.shown_run(now.wall)
    every = settings.every if settings is not None else None
    span = settings.deadline if settings is not None else None
    last_run = (
        kept.run.opened
        if kept.run is not None
        else kept.every_since
        if kept.last_inserted is None
        else kept.last_inserted
    )
    deadline = None
    if run is not None:
        by_group = None if span is None else run.opened + span
        deadline = by_group if run.deadline is None else run.deadline
    return GroupStatus(
        *key,
        settings is not None,
        every,
        last_run if every is not None or kept.run is not None else None,
        run,
        deadline,
        group.sums,
        group.rows,
        group.ended,
    )
