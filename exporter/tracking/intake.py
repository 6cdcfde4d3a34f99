"""Who is tracked, because of whom, and for how long: sources, the limit, retention and tombstones.

Owned by the tracker's thread. Whatever enters or leaves the book does so here.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import structlog

from exporter.config.settings import ListedOperation
from exporter.operation import Operation, OperationKey, Status
from exporter.tracking import record
from exporter.tracking.memory import Kept
from exporter.tracking.messages import Released
from exporter.tracking.retention import NEVER, Departures, leaves_at
from exporter.tracking.roster import API, CONFIG, Conflicts, Roster, SourceKind, group_of, labels_of
from exporter.tracking.slices import SLICE, SLICES_A_STEP, Slices, is_due
from exporter.tracking.tombstones import Tombstone

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from exporter.metrics.own import Activity
    from exporter.tracking.book import Book
    from exporter.tracking.journal import Journal
    from exporter.tracking.lane import Asker
    from exporter.tracking.messages import Created, Handed, Listed
    from exporter.tracking.picture import SourceState
    from exporter.tracking.record import Moment, Tracked
    from exporter.tracking.roster import Source
    from exporter.tracking.slices import Job
    from exporter.tracking.tombstones import Tombstones

FORGOTTEN_A_STEP = 200  # tombstones: some 20 ms
RETIRED = "retired"  # the state of an id of which only a tombstone is left

log = structlog.get_logger()


class Intake:
    """Takes operations in and lets them go; at most `limit` are tracked."""

    def __init__(self, book: Book, journal: Journal, activity: Activity, tombstones: Tombstones) -> None:
        self.limit = 0
        self.tombstones = tombstones
        self.slices = Slices()
        self._book = book
        self._journal = journal
        self._activity = activity
        self._askers: dict[str, Asker] = {}
        self._rosters: dict[str, Roster] = {}
        self._ended: dict[OperationKey, Tracked] = {}  # final, and listed no more: not asked again when listed again
        self._waiting: dict[OperationKey, None] = {}  # listed, and refused because there was no room
        self._conflicts = Conflicts()
        self._departures = Departures()

    # Environments.

    def add_environment(self, asker: Asker, operations: Iterable[Kept], now: Moment) -> None:
        """Begin with an environment, and with what is known of it from before."""
        roster = self._rosters[asker.name] = Roster()
        self._askers[asker.name] = asker
        for tracked, namings in operations:
            roster.restore(tracked.key.id, namings)
            self._noted(self._book.record(tracked, now))
            asker.plan(tracked)

    def remove_environment(self, name: str) -> dict[str, Kept]:
        """End with an environment; return what is known of it, by id."""
        known = {each.tracked.key.id: each for each in self.all_kept(name)}
        roster = self._rosters.pop(name)
        del self._askers[name]
        self._waiting = {key: None for key in self._waiting if key.environment != name}
        self._ended = {key: each for key, each in self._ended.items() if key.environment != name}
        for operation_id in roster:
            self._conflicts.newly(OperationKey(name, operation_id), ())
        return known

    def unlist_http(self, asker: Asker, now: Moment) -> None:
        """Drop what http lists named that are configured no more."""
        urls = {each.url for each in asker.settings.operations_http}
        for source in self._rosters[asker.name].sources(SourceKind.HTTP):
            if source.name not in urls:
                self.slices.put((asker.name, source), self._list(asker, source, ()), now)

    def sources(self, asker: Asker) -> tuple[SourceState, ...]:
        """Return the sources of an environment as they stand."""
        urls = {each.url for each in asker.settings.operations_http}
        return asker.standing.sources(self._rosters[asker.name].counts(), urls)

    def kept(self, key: OperationKey) -> Kept | None:
        """Return what is to be remembered of an operation, None if it is not tracked."""
        tracked, roster = self._book.get(key), self._rosters.get(key.environment)
        return Kept(tracked, roster.namings(key.id)) if tracked is not None and roster is not None else None

    def all_kept(self, name: str) -> Iterator[Kept]:
        """Return what is to be remembered of the operations of an environment."""
        roster = self._rosters[name]
        return (Kept(each, roster.namings(each.key.id)) for each in self._book.of(name))

    # In.

    def record(self, after: Tracked, now: Moment) -> Tracked:
        """Take in an operation as it is now, and note when it is to leave."""
        after = self._book.record(after, now)
        self._journal.dirty.operations[after.key] = None
        return self._noted(after)

    def _noted(self, tracked: Tracked) -> Tracked:
        if tracked.final or tracked.lost:
            self._departures.note(tracked, self._leaves_at(tracked))
        return tracked

    def list_all(self, message: Listed, now: Moment) -> None:
        """Take a source's whole list in place of its last one."""
        asker = self._askers[message.environment]
        asker.standing.read(message.source, now.wall)
        self._activity.source_success.labels(asker.name, message.source.kind).set(now.wall)
        self.slices.put((asker.name, message.source), self._list(asker, message.source, message.operations), now)

    def _list(self, asker: Asker, source: Source, operations: Iterable[ListedOperation]) -> Job:
        now = yield
        roster = self._rosters[asker.name]
        listed = {each.id: each for each in operations}
        dropped = roster.left_out(source, listed)
        refused = conflicts = 0
        for number, operation_id in enumerate([*dropped, *listed]):  # the dropped ones first: they make room
            if is_due(number):
                now = yield
                if self._askers.get(asker.name) is not asker:
                    return
            key = OperationKey(asker.name, operation_id)
            if number < len(dropped):
                roster.drop(source, operation_id)
                self._unlisted(key, source, now)
            elif roster.name(source, listed[operation_id]):
                conflicts += self._conflicts_newly(key)
                # What the configuration lists is followed, whatever became of it before.
                refused += self._enter(key, now, again=source == CONFIG) is None
        self._tell(asker, source, refused, conflicts)

    def _tell(self, asker: Asker, source: Source, refused: int, conflicts: int) -> None:
        where = {"environment": asker.name, "source": str(source.kind)}
        if refused:
            log.error("no room for operations: max_operations is reached", refused=refused, limit=self.limit, **where)
        if conflicts:
            log.warning("sources name different groups or labels for operations", operations=conflicts, **where)

    def register(self, environment: str, handed: Handed, *, again: bool, now: Moment, chance: float) -> str | None:
        """Take in an operation that a program registers; return its state, or None where there is no room."""
        key, roster = OperationKey(environment, handed.operation.id), self._rosters[environment]
        known = any(each.source == API for each in roster.namings(key.id))
        if not known or handed.operation != ListedOperation(key.id):  # a bare id repeated takes nothing back
            roster.name(API, handed.operation)
            self._tell(self._askers[environment], API, 0, self._conflicts_newly(key))
        state = self._enter(key, now, again=again)
        if state is None or state == RETIRED:
            roster.drop(API, key.id)
        elif handed.created is not None:
            state = self._believe(key, handed.created, now, chance)
        return state

    def _believe(self, key: OperationKey, created: Created, now: Moment, chance: float) -> str:
        tracked = self._book.get(key)
        if tracked is None:
            raise LookupError(key.id)
        # Not where more is known already: an answer of Knock, or that it was followed before.
        if tracked.operation is None and tracked.from_birth is None and tracked.up is None:
            operation = Operation(key.id, Status.QUEUED, created.name, inserted_at=created.inserted_at)
            tracked = self.record(record.created(tracked, operation, chance), now)
            self._askers[key.environment].plan(tracked)
        return tracked.state

    def _enter(self, key: OperationKey, now: Moment, *, again: bool) -> str | None:
        tracked = self._book.get(key)
        if tracked is not None:
            return self._renew(tracked, now, again=again)
        stone = self.tombstones.get(key)
        if stone is not None and stone.retired and not again:
            self._waiting.pop(key, None)
            return RETIRED
        if not self._has_room(now):
            if key not in self._waiting:
                self._activity.refuse(key.environment, "limit")
            if self._listed(key):
                self._waiting[key] = None
            return None
        self._waiting.pop(key, None)
        self._drop_tombstone(key)
        return self._begin(key, now, known=stone is not None).state

    def _mark(self, key: OperationKey) -> None:
        """Note that an operation is named otherwise: it is to be kept, and shown, as it is now."""
        self._journal.dirty.operations[key] = None
        self._book.touch(key)

    def _listed(self, key: OperationKey) -> bool:
        return any(each.source != API for each in self._rosters[key.environment].namings(key.id))

    def _begin(self, key: OperationKey, now: Moment, *, known: bool) -> Tracked:
        asker, namings = self._askers[key.environment], self._rosters[key.environment].namings(key.id)
        group = self._book.admit_group(asker.name, group_of(namings))
        labels, ended = labels_of(namings), self._ended.pop(key, None)
        if ended is not None:
            return self.record(replace(ended, group=group, labels=labels), now)
        new = record.handed_over(key, group, labels, now, asker.settings.polling)
        # What was followed before was counted before.
        new = self.record(replace(new, from_birth=False) if known else new, now)
        asker.plan(new)
        return new

    def _renew(self, tracked: Tracked, now: Moment, *, again: bool) -> str:
        namings = self._rosters[tracked.key.environment].namings(tracked.key.id)
        self._mark(tracked.key)
        group, labels = group_of(namings), labels_of(namings)
        if (self._book.fold_group(tracked.key.environment, group), labels) != (tracked.group, tracked.labels):
            group = self._book.admit_group(tracked.key.environment, group)
            tracked = self.record(replace(tracked, group=group, labels=labels), now)
        if tracked.lost and again:
            tracked = self.ask_again(tracked, now)
        return tracked.state

    def ask_again(self, missing: Tracked, now: Moment) -> Tracked:
        """Give an operation that is lost, or about to be, another chance."""
        asker = self._askers[missing.key.environment]
        tracked = self.record(record.asked_again(missing, now, asker.settings.polling), now)
        asker.plan(tracked)
        return tracked

    def _conflicts_newly(self, key: OperationKey) -> bool:
        newly = self._conflicts.newly(key, self._rosters[key.environment].namings(key.id))
        self._activity.conflicts.labels(key.environment).inc(newly)
        return newly

    # Out.

    def release(self, environment: str, operation_id: str, now: Moment) -> Released:
        """Drop an operation because somebody says so; not while another source lists it."""
        key, roster = OperationKey(environment, operation_id), self._rosters[environment]
        stone = self.tombstones.get(key)
        listed_by = tuple(each.source for each in roster.namings(operation_id) if each.source != API)
        if listed_by:
            return Released(known=True, listed_by=listed_by)
        if key not in self and (stone is None or not stone.retired):
            return Released(known=False)
        self._let_go(key, now, retired=False)
        return Released(known=True, durable=self._journal.durable)

    def __contains__(self, key: OperationKey) -> bool:
        return self._book.get(key) is not None

    def _unlisted(self, key: OperationKey, source: Source, now: Moment) -> None:
        """Let an operation go that a source lists no more: unless another one names it, or its end is to be seen."""
        if not self._listed(key):
            self._waiting.pop(key, None)
        self._conflicts_newly(key)
        tracked, namings = self._book.get(key), self._rosters[key.environment].namings(key.id)
        if tracked is None:
            return
        if namings:
            self._renew(tracked, now, again=False)
            self._noted(tracked)  # it could not leave while the configuration listed it
        elif source == CONFIG or tracked.clean or tracked.lost:
            self._let_go(key, now, retired=False)
            if tracked.final:
                self._ended[key] = tracked
        else:
            self._mark(key)

    def _let_go(self, key: OperationKey, now: Moment, *, retired: bool, reason: str | None = None) -> None:
        roster = self._rosters[key.environment]
        roster.drop(API, key.id)
        self._conflicts.newly(key, ())
        if key in self:
            self._book.remove(key, reason)
            self._askers[key.environment].drop(key.id)
            self._journal.dirty.operations[key] = None
        self.tombstones[key] = Tombstone(now.mono, retired)
        self._journal.dirty.tombstones[key] = None

    def _drop_tombstone(self, key: OperationKey) -> None:
        if self.tombstones.pop(key, None) is not None:
            self._journal.dirty.tombstones[key] = None

    def _leaves_at(self, tracked: Tracked) -> float:
        environment = tracked.key.environment
        namings = self._rosters[environment].namings(tracked.key.id)
        return leaves_at(tracked, namings, self._askers[environment].settings.retention)

    def use_retention(self) -> None:
        """Work out again when operations leave: settings have changed."""
        ended = (each for name in self._askers for each in self._book.of(name) if each.final or each.lost)
        self._departures.begin_anew((each, self._leaves_at(each)) for each in ended)

    def next_step(self, next_round: float) -> float:
        """Return when `step` has something to do (monotonic; inf: nothing is planned); rounds look for room."""
        if not self._waiting:
            return self._departures.next
        return -NEVER if len(self._book) < self.limit else min(self._departures.next, next_round)

    def step(self, now: Moment) -> None:
        """Retire what has had its time, forget tombstones that are too old, and let in what waits for room."""
        for key in islice(self._departures.due(now.mono), SLICE * SLICES_A_STEP):
            tracked = self._book.get(key)
            if tracked is None or not (tracked.final or tracked.lost):
                continue
            if (at := self._leaves_at(tracked)) <= now.mono:
                self._let_go(key, now, retired=True, reason="retention")
            else:
                self._departures.note(tracked, at)
        self._departures.prune(len(self._book), self._may_leave)
        self._forget_tombstones(now)
        self._forget_ended()
        self._let_in(now)

    def _forget_tombstones(self, now: Moment) -> None:
        listed = []
        for key in islice(self.tombstones.overdue(now.mono), FORGOTTEN_A_STEP):
            self._journal.dirty.tombstones[key] = None
            if key.environment in self._rosters and self._listed(key):
                listed.append(key)
        for key in listed:  # a source that still names it would have it counted again
            self.tombstones[key] = Tombstone(now.mono, retired=True)

    def _forget_ended(self) -> None:
        excess = len(self._book) + len(self._ended) - self.limit
        for key in list(islice(self._ended, max(0, excess))):
            del self._ended[key]

    def _let_in(self, now: Moment) -> None:
        for key in list(islice(self._waiting, SLICE * SLICES_A_STEP)):
            if not self._has_room(now):
                return
            namings = self._rosters[key.environment].namings(key.id)
            self._enter(key, now, again=any(each.source == CONFIG for each in namings))

    def _has_room(self, now: Moment) -> bool:
        """Whether one more can be tracked: if need be, the operation that ended cleanly longest ago retires early."""
        if len(self._book) < self.limit:
            return True
        for key in self._departures.take_cleanest(len(self._book) - self.limit + 1, self._may_leave):
            self._let_go(key, now, retired=True, reason="limit")
        return len(self._book) < self.limit

    def _may_leave(self, key: OperationKey) -> bool:
        tracked = self._book.get(key)
        return tracked is not None and tracked.clean and self._leaves_at(tracked) < NEVER
