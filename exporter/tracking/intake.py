"""Who is tracked, because of whom, and for how long: sources, the limit, retention and tombstones.

Owned by the tracker's thread. Whatever is followed enters and leaves here.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import structlog

from exporter.config.settings import ListedOperation
from exporter.operation import OTHER, Operation, OperationKey, Status
from exporter.tracking import transitions
from exporter.tracking.environment import NEVER
from exporter.tracking.expiry import RetirementOrder, Sweep, leaves_at
from exporter.tracking.exposure import hidden_at
from exporter.tracking.memberships import API, CONFIG, SourceKind, contradict, group_of, labels_of, run_of
from exporter.tracking.messages import ReleaseResult, RunResult
from exporter.tracking.runs import NO_RUN
from exporter.tracking.slices import SLICE, SLICES_A_STEP, Slices, is_due
from exporter.tracking.tombstones import Tombstone

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from exporter.metrics.own import Activity
    from exporter.tracking.book import Book
    from exporter.tracking.cycle import Changed
    from exporter.tracking.environment import FollowedOperation, WatchedEnvironment
    from exporter.tracking.memberships import Memberships, SourceKey
    from exporter.tracking.memory import StoredOperation
    from exporter.tracking.messages import Created, Listed, PutRun, Registration
    from exporter.tracking.slices import Job
    from exporter.tracking.snapshot import SourceState
    from exporter.tracking.tombstones import Tombstones
    from exporter.tracking.transitions import Moment, Tracked

FORGOTTEN_A_STEP = 200  # tombstones: some 20 ms
RETIRED = "retired"  # the state of an id of which only a tombstone is left

log = structlog.get_logger()


class Intake:
    """Takes operations in and drops them; at most `limit` are tracked."""

    def __init__(
        self,
        environments: Mapping[str, WatchedEnvironment],
        book: Book,
        changed: Changed,
        activity: Activity,
        tombstones: Tombstones,
    ) -> None:
        self.limit = 0
        self.tombstones = tombstones
        self.slices = Slices()
        self._environments = environments
        self._book = book
        self._changed = changed
        self._activity = activity
        self._ended: dict[OperationKey, Tracked] = {}  # final, and listed no more: not asked again when listed again
        self._waiting: dict[OperationKey, None] = {}  # listed, and refused because there was no room
        self._sweep = Sweep()
        self._retirement_order = RetirementOrder(environments)

    # Environments.

    def restore(self, environment: WatchedEnvironment, operations: Iterable[StoredOperation], now: Moment) -> None:
        """Begin with what is known of an environment from before."""
        # In the order of their ends, so that each comes last in the retirement order.
        for tracked, memberships in sorted(operations, key=lambda each: each.tracked.final_at or 0.0):
            environment.index.restore(tracked.key.id, memberships)
            self._follow(environment, tracked, now)

    def remove_environment(self, name: str) -> None:
        """End with an environment."""
        self._retirement_order.remove_environment(name)
        self._waiting = {key: None for key in self._waiting if key.environment != name}
        self._ended = {key: each for key, each in self._ended.items() if key.environment != name}

    def unlist_http(self, environment: WatchedEnvironment, now: Moment) -> None:
        """Drop what http lists named that are configured no more."""
        urls = {each.url for each in environment.settings.operations_http}
        for source in environment.index.sources(SourceKind.HTTP):
            if source.name not in urls:
                self.slices.put((environment.name, source), self._list(environment, source, ()), now)

    def sources(self, environment: WatchedEnvironment) -> tuple[SourceState, ...]:
        """Return the sources of an environment as they stand."""
        urls = {each.url for each in environment.settings.operations_http}
        return environment.activity.sources(environment.index.counts(), urls)

    def _memberships(self, key: OperationKey) -> Memberships:
        return self._environments[key.environment].index.memberships(key.id)

    # In.

    def update(self, operation: FollowedOperation, after: Tracked, now: Moment) -> None:
        """Take in what is known of an operation now, and note when it is to leave."""
        before = operation.tracked
        if after.run and before.last_success is None and _inserted_at(before) is None:
            after = self._of_its_run(operation, after)
        self._book.update(operation, after, now)
        self._changed.operations[after.key] = None
        self._plan_sweep(operation)

    def _of_its_run(self, operation: FollowedOperation, after: Tracked) -> Tracked:
        """Take an operation that named no run out of the current one, where Knock made it before that began."""
        if run_of(operation.memberships) is None and self._book.groups.is_older(after):
            return after._replace(run=None)
        return after

    def _plan_sweep(self, operation: FollowedOperation) -> None:
        """Note when an operation is to be hidden or to leave."""
        tracked, at = operation.tracked, NEVER
        if not tracked.active:
            at = leaves_at(operation)
            self._retirement_order.note(operation, may_leave=at < NEVER)
            if operation.rank is not None:
                at = min(at, hidden_at(tracked, operation.environment.settings.per_operation))
        self._sweep.plan(operation, at)

    def list_all(self, message: Listed, now: Moment) -> None:
        """Take a source's whole list in place of its last one."""
        environment = self._environments[message.environment]
        environment.activity.read(message.source, now.wall)
        self._activity.source_success.labels(environment.name, message.source.kind).set(now.wall)
        self.slices.put(
            (environment.name, message.source), self._list(environment, message.source, message.operations), now
        )

    def _list(self, environment: WatchedEnvironment, source: SourceKey, operations: Iterable[ListedOperation]) -> Job:
        now = yield
        index = environment.index
        listed = {each.id: each for each in operations}
        dropped = index.left_out(source, listed)
        refused = conflicts = 0
        for number, operation_id in enumerate([*dropped, *listed]):  # the dropped ones first: they make room
            if is_due(number):
                now = yield
            if self._environments.get(environment.name) is not environment:
                return
            key = OperationKey(environment.name, operation_id)
            if number < len(dropped):
                index.drop(source, operation_id)
                self._unlisted(key, source, now)
            elif (before := index.name(source, listed[operation_id])) is not None:
                conflicts += self._conflicts_newly(key, before)
                # What the configuration lists is followed, whatever became of it before.
                refused += self._enter(key, now, again=source == CONFIG) is None
        self._log(environment, source, refused, conflicts)

    def _log(self, environment: WatchedEnvironment, source: SourceKey, refused: int, conflicts: int) -> None:
        where = {"environment": environment.name, "source": str(source.kind)}
        if refused:
            log.error("operations refused: max_operations is reached", refused=refused, limit=self.limit, **where)
        if conflicts:
            log.warning("sources give different groups or labels to the same operations", operations=conflicts, **where)

    def register(
        self, environment: WatchedEnvironment, registration: Registration, *, again: bool, now: Moment, chance: float
    ) -> str | None:
        """Take in an operation that a program registers; return its state, or None where there is no room."""
        key, index = OperationKey(environment.name, registration.operation.id), environment.index
        known = any(each.source == API for each in index.memberships(key.id))
        if not known or registration.operation != ListedOperation(key.id):  # a bare id repeated takes nothing back
            before = index.name(API, registration.operation)
            self._log(environment, API, 0, before is not None and self._conflicts_newly(key, before))
        state = self._enter(key, now, again=again)
        if state is None or state == RETIRED:
            index.drop(API, key.id)
        elif registration.created is not None:
            state = self._believe(environment.operations[key.id], registration.created, now, chance)
        return state

    def _believe(self, operation: FollowedOperation, created: Created, now: Moment, chance: float) -> str:
        tracked = operation.tracked
        # Not where more is known already: an answer of Knock, or that it was followed before.
        if tracked.operation is None and tracked.from_birth is None and tracked.up is None:
            record = Operation(operation.key.id, Status.QUEUED, created.name, inserted_at=created.inserted_at)
            self.update(operation, transitions.created(tracked, record, chance), now)
            operation.environment.plan(operation)
        return operation.tracked.state

    def _enter(self, key: OperationKey, now: Moment, *, again: bool) -> str | None:
        operation = self._book.find(key)
        if operation is not None:
            return self._use_memberships(operation, now, again=again)
        stone = self.tombstones.get(key)
        if stone is not None and stone.retired and not again:
            self._waiting.pop(key, None)
            return RETIRED
        if not self._has_room(now):
            if key not in self._waiting:
                self._activity.refuse(key.environment, "limit")
            if self._listed(key):
                self._waiting[key] = None
                self._open_run(self._environments[key.environment], self._memberships(key), now)
            return None
        self._waiting.pop(key, None)
        if stone is not None:
            del self.tombstones[key]
            self._changed.tombstones[key] = None
        return self._begin(key, now, stone)

    def _in_run(self, tracked: Tracked, named: str | None, now: Moment) -> Tracked:
        """Put an operation into the run that it names; else into the current one, unless Knock made it before that."""
        groups = self._book.groups
        joined = tracked._replace(run=groups.join((tracked.key.environment, tracked.group), named, now))
        return joined._replace(run=None) if named is None and groups.is_older(joined) else joined

    def _open_run(self, environment: WatchedEnvironment, memberships: Memberships, now: Moment) -> None:
        """Open the run that is named, though there is no room: later it would take the place of a newer one."""
        group, named = group_of(memberships), run_of(memberships)
        if named is not None and environment.groups.fold(group) == group:
            self._book.groups.join((environment.name, self._book.admit_group(environment, group)), named, now)

    def _touch(self, operation: FollowedOperation) -> None:
        """Note that an operation is named otherwise: it is to be kept, and shown, and leaves, as it is now."""
        self._changed.operations[operation.key] = None
        self._book.touch(operation.key)
        self._plan_sweep(operation)

    def _listed(self, key: OperationKey) -> bool:
        return any(each.source != API for each in self._memberships(key))

    def _begin(self, key: OperationKey, now: Moment, stone: Tombstone | None) -> str:
        environment, memberships = self._environments[key.environment], self._memberships(key)
        group = self._book.admit_group(environment, group_of(memberships))
        labels, ended = labels_of(memberships), self._ended.pop(key, None)
        if ended is not None:
            new = ended._replace(group=group, labels=labels)
        else:
            new = transitions.newly_tracked(key, group, labels, now, environment.settings.polling)
            if stone is not None:  # what was followed before was counted before
                new = new._replace(from_birth=False)
        counted = stone is not None and stone.counted
        new = new._replace(run=NO_RUN) if counted else self._in_run(new, run_of(memberships), now)
        self._changed.operations[key] = None
        return self._follow(environment, new, now).tracked.state

    def _follow(self, environment: WatchedEnvironment, tracked: Tracked, now: Moment) -> FollowedOperation:
        operation = self._book.add(environment, tracked, now)
        self._plan_sweep(operation)
        environment.plan(operation)
        return operation

    def _use_memberships(self, operation: FollowedOperation, now: Moment, *, again: bool) -> str:
        tracked, memberships = operation.tracked, operation.memberships
        self._touch(operation)
        group, labels = group_of(memberships), labels_of(memberships)
        if operation.environment.groups.fold(group) != tracked.group:
            group = self._book.admit_group(operation.environment, group)
        else:
            group = tracked.group
        after = self._in_named_run(tracked._replace(group=group, labels=labels), tracked, run_of(memberships), now)
        if after != tracked:
            self.update(operation, after, now)
        if tracked.lost and again:
            self.retry(operation, now)
        return operation.tracked.state

    def _in_named_run(self, after: Tracked, before: Tracked, named: str | None, now: Moment) -> Tracked:
        """Put an operation that is named otherwise into the run that it is said to belong to; once in one, it stays."""
        moves = after.group != before.group
        stays = before.run is not None and (before.run == NO_RUN or before.operation is not None)
        if not moves and (named is None or stays):
            return after
        joined = self._in_run(after, named, now)
        if self._book.groups.counts(before):  # asked once the run that it names has begun
            return after._replace(run=NO_RUN) if moves else after
        return joined

    def retry(self, missing: FollowedOperation, now: Moment) -> None:
        """Give an operation that is lost, or about to be, another chance."""
        polling = missing.environment.settings.polling
        self.update(missing, transitions.retried(missing.tracked, now, polling), now)
        missing.environment.plan(missing)

    def _conflicts_newly(self, key: OperationKey, before: Memberships) -> bool:
        newly = contradict(self._memberships(key)) and not contradict(before)
        self._activity.conflicts.labels(key.environment).inc(newly)
        return newly

    def put_run(self, environment: WatchedEnvironment, message: PutRun, now: Moment) -> RunResult:
        """Open a run of a group, or take in what is said of it."""
        key, groups = (environment.name, message.group), self._book.groups
        if environment.groups.fold(message.group) != message.group or message.group == OTHER:
            return RunResult(admitted=False)
        if (current := groups.open(key, message.run, now)) is not None:
            return RunResult(current=current)
        self._book.admit_group(environment, message.group)
        groups.change(key, message.changes, now)
        return RunResult()

    # Out.

    def release(self, environment: WatchedEnvironment, operation_id: str, now: Moment) -> ReleaseResult:
        """Drop an operation because somebody says so; not while another source lists it.

        Of one at its end it means that its retention is over: it retires, and of all lists only the configuration's
        would bring it back.
        """
        key = OperationKey(environment.name, operation_id)
        operation, stone = self._book.find(key), self.tombstones.get(key)
        ended = operation.tracked.final if operation is not None else stone is not None and stone.retired
        named_by = [each.source for each in self._memberships(key)]
        listed_by = tuple(each for each in named_by if each == CONFIG or not (ended or each == API))
        if listed_by:
            return ReleaseResult(known=True, listed_by=listed_by)
        if operation is not None:
            self._drop(key, now, retired=ended, reason="retention" if ended else None)
        return ReleaseResult(known=ended or operation is not None)

    def _unlisted(self, key: OperationKey, source: SourceKey, now: Moment) -> None:
        """Let an operation go that a source lists no more: unless another one names it, or its end is to be seen."""
        if not self._listed(key):
            self._waiting.pop(key, None)
        operation = self._book.find(key)
        if operation is None:
            return
        tracked = operation.tracked
        if operation.memberships:
            self._use_memberships(operation, now, again=False)
        elif source == CONFIG or tracked.clean or tracked.lost:
            self._drop(key, now, retired=False)
            if tracked.final:
                self._ended[key] = tracked
        else:
            self._touch(operation)

    def _drop(self, key: OperationKey, now: Moment, *, retired: bool, reason: str | None = None) -> None:
        self._environments[key.environment].index.drop(API, key.id)
        operation, before = self._book.find(key), self.tombstones.get(key)
        counted = before is not None and before.counted
        if operation is not None:
            counted = self._book.groups.counts(operation.tracked)
            self._book.remove(operation, now, reason)
            self._retirement_order.note(operation, may_leave=False)
            self._changed.operations[key] = None
        self.tombstones[key] = Tombstone(now.mono, retired, counted)
        self._changed.tombstones[key] = None

    def sweep(self, environment: WatchedEnvironment, now: Moment) -> None:
        """Look at all operations of an environment: when they are hidden or leave has changed."""
        for each in environment.operations.values():
            self._sweep.plan(each, now.mono)

    def next_step(self, next_round: float) -> float:
        """Return when `step` has something to do (monotonic; inf: nothing is planned); rounds look for room."""
        if not self._waiting or self._changed.is_much:
            return self._sweep.next_step(next_round)
        return next_round if len(self._book) >= self.limit else -NEVER

    def step(self, now: Moment) -> None:
        """Retire what has had its time, forget tombstones that are too old, and let in what waits for room."""
        due = self._sweep.step(now.mono, self._all_operations)
        if due:
            self.slices.put(object(), self._hide_or_retire(due), now)
        self._forget_tombstones(now)
        self._forget_ended()
        if not self._changed.is_much:
            self._let_in(now)

    def _all_operations(self) -> list[FollowedOperation]:
        return [operation for each in self._environments.values() for operation in each.operations.values()]

    def _hide_or_retire(self, operations: list[FollowedOperation]) -> Job:
        now = yield
        for number, operation in enumerate(operations):
            if is_due(number):
                now = yield
            if operation.dropped:
                continue
            if leaves_at(operation) <= now.mono:
                self._drop(operation.key, now, retired=True, reason="retention")
            else:
                self._book.show(operation, now)
                self._plan_sweep(operation)

    def _forget_tombstones(self, now: Moment) -> None:
        listed = []
        for key, stone in islice(self.tombstones.overdue(now.mono), FORGOTTEN_A_STEP):
            self._changed.tombstones[key] = None
            if key.environment in self._environments and self._listed(key):
                listed.append((key, stone))
        for key, stone in listed:  # a source that still names it would have it counted again
            self.tombstones[key] = Tombstone(now.mono, retired=True, counted=stone.counted)

    def _forget_ended(self) -> None:
        excess = len(self._book) + len(self._ended) - self.limit
        for key in list(islice(self._ended, max(0, excess))):
            del self._ended[key]

    def _let_in(self, now: Moment) -> None:
        for key in list(islice(self._waiting, SLICE * SLICES_A_STEP)):
            if not self._has_room(now):
                return
            memberships = self._memberships(key)
            self._enter(key, now, again=any(each.source == CONFIG for each in memberships))

    def _has_room(self, now: Moment) -> bool:
        """Whether one more can be tracked: if need be, the first that may do so retires early."""
        if len(self._book) < self.limit:
            return True
        for key in self._retirement_order.first(len(self._book) - self.limit + 1, now.mono):
            self._drop(key, now, retired=True, reason="limit")
        return len(self._book) < self.limit


def _inserted_at(tracked: Tracked) -> float | None:
    return tracked.operation.inserted_at if tracked.operation is not None else None
