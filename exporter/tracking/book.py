"""The book: what all operations add up to, which have series of their own, and how it is published.

Every change of an operation goes through `update`. Only what it touched is rendered again, once, when the next view is
published.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.metrics.exposition import View, render_operation, size_of
from exporter.operation import UNKNOWN_NAME, OperationKey
from exporter.tracking import exposure
from exporter.tracking.aggregates import Aggregates
from exporter.tracking.environment import FollowedOperation
from exporter.tracking.groups import WatchedGroups
from exporter.tracking.ledger import contribution_of, ended_now, grow
from exporter.tracking.slices import is_due
from exporter.tracking.snapshot import NOTHING_SHOWN, Entry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exporter.metrics.own import Activity
    from exporter.tracking.cycle import Changed
    from exporter.tracking.environment import WatchedEnvironment
    from exporter.tracking.exposure import CardinalityLimit, Rank
    from exporter.tracking.memory import AggregateKey, StoredAggregate
    from exporter.tracking.runs import GroupKey, StoredGroup
    from exporter.tracking.slices import Job
    from exporter.tracking.snapshot import EnvironmentStatus
    from exporter.tracking.transitions import Moment, Tracked


class Book:
    """Owned by the tracker's thread; notes in `changed` what is to be rendered, or stored."""

    def __init__(
        self,
        environments: Mapping[str, WatchedEnvironment],
        labels: Sequence[str],
        activity: Activity,
        changed: Changed,
    ) -> None:
        self._environments = environments
        self._labels = labels
        self._activity = activity
        self._changed = changed
        self._aggregates = Aggregates()
        self.groups = WatchedGroups(changed)
        self._snapshot = NOTHING_SHOWN
        self._size = 0  # bytes of the lines in it

    def __len__(self) -> int:
        return sum(len(each.operations) for each in self._environments.values())

    def find(self, key: OperationKey) -> FollowedOperation | None:
        """Return an operation, if it is followed."""
        environment = self._environments.get(key.environment)
        return environment.operations.get(key.id) if environment is not None else None

    def touch(self, key: OperationKey) -> None:
        """Note that something besides the record of an operation has changed."""
        self._changed.rows[key] = None

    # Environments.

    def restore(
        self, aggregates: Mapping[AggregateKey, StoredAggregate], groups: Mapping[GroupKey, StoredGroup]
    ) -> None:
        """Begin with what the aggregates and groups of an environment remember."""
        for place, memory in aggregates.items():
            self._aggregates.remember(place, memory)
        self.groups.restore(groups)

    def remove_environment(self, environment: WatchedEnvironment) -> Job:
        """End with an environment that is watched no more: nothing of it is shown."""
        operations = [*environment.operations.values()]
        environment.operations.clear()
        self._aggregates.remove_environment(environment.name)
        self.groups.remove_environment(environment.name)
        yield
        for number in range(len(operations)):
            if is_due(number):
                yield
            self.touch(operations.pop().key)  # one by one: to free 50,000 at once would hold the tracker

    def change_exposure(self, environment: WatchedEnvironment) -> Job:
        """Show the operations of an environment as its settings and the declared labels now say."""
        now = yield
        environment.top_n.limit = environment.settings.per_operation_limit
        for number, operation in enumerate([*environment.operations.values()]):
            if is_due(number):
                now = yield
            if not operation.dropped:
                self.show(operation, now)

    def use_labels(self, labels: Sequence[str]) -> bool:
        """Show these declared labels from now on; return whether they are others, for `change_exposure`."""
        before, self._labels = self._labels, labels
        return labels != before

    def remembered(self, place: AggregateKey) -> StoredAggregate | None:
        """Return what is to be remembered of an aggregate by name."""
        return self._aggregates.remembered(place)

    def all_remembered(self, environment: str) -> dict[AggregateKey, StoredAggregate]:
        """Return what is to be remembered of all aggregates of an environment."""
        return self._aggregates.all_remembered(environment)

    def admit_group(self, environment: WatchedEnvironment, group: str) -> str:
        """Return the group under which a new operation is shown; what is folded is counted."""
        return self._admit(environment, "group", environment.groups, group)

    def _admit(self, environment: WatchedEnvironment, label: str, limit: CardinalityLimit, value: str) -> str:
        known = len(limit.admitted)
        admitted = limit.admit(value)
        if admitted != value:
            self._activity.folded.labels(environment.name, label).inc()
        if len(limit.admitted) != known:
            self._changed.environments[environment.name] = None
        return admitted

    # Operations.

    def add(self, environment: WatchedEnvironment, tracked: Tracked, now: Moment) -> FollowedOperation:
        """Take in a new operation, with its name admitted."""
        tracked = self._admitted(environment, None, tracked)
        operation = FollowedOperation(environment, tracked)
        environment.follow(operation)
        self._aggregates.aggregate_of(tracked).exchange(None, contribution_of(tracked))
        self.groups.exchange(None, tracked, now)
        environment.count(None, tracked)
        self.show(operation, now)
        return operation

    def update(self, operation: FollowedOperation, after: Tracked, now: Moment) -> None:
        """Take in what is known of an operation now, with its marks raised and its name admitted."""
        before = operation.tracked
        after = self._count(before, self._admitted(operation.environment, before, after))
        operation.tracked = after
        taken, added = contribution_of(before), contribution_of(after)
        left, joined = self._aggregates.aggregate_of(before), self._aggregates.aggregate_of(after)
        if left is joined:
            joined.exchange(taken, added)
        else:
            left.exchange(taken, None)
            joined.exchange(None, added)
        self.groups.exchange(before, after, now)
        operation.environment.count(before, after)
        self.show(operation, now)

    def remove(self, operation: FollowedOperation, now: Moment, reason: str | None) -> None:
        """Drop an operation; `reason` is counted: retention or limit (None: somebody said so)."""
        aggregate = self._aggregates.aggregate_of(operation.tracked)
        aggregate.exchange(contribution_of(operation.tracked), None)
        if reason is not None:
            aggregate.retired[reason] += 1
        self.groups.exchange(operation.tracked, None, now)
        operation.environment.count(operation.tracked, None)
        self._move(operation, None)
        operation.environment.drop(operation)

    def show(self, operation: FollowedOperation, now: Moment) -> None:
        """Give an operation the rank that it has now, or hide it."""
        self._move(operation, _rank(operation, now))

    def _move(self, operation: FollowedOperation, rank: Rank | None) -> None:
        for each in operation.environment.top_n.move(operation.rank, rank):
            self._changed.rows[OperationKey(operation.environment.name, each)] = None
        operation.rank = rank
        self.touch(operation.key)

    def _admitted(self, environment: WatchedEnvironment, before: Tracked | None, after: Tracked) -> Tracked:
        record = after.operation
        if record is None:
            return after
        # A name that Knock told us stays, so that an operation does not wander between aggregates and its fold is
        # counted once; one that came with a registration gives way to the first answer.
        known = before.operation if before is not None and (before.last_success or not after.last_success) else None
        if known is not None and known.name != UNKNOWN_NAME:
            name = known.name
        elif record.name == UNKNOWN_NAME:
            return after
        else:
            name = self._admit(environment, "name", environment.names, record.name)
        return after if name == record.name else after._replace(operation=replace(record, name=name))

    def _count(self, before: Tracked, after: Tracked) -> Tracked:
        if after.operation is None or after.operation is before.operation:
            return after
        marks, growth = grow(before.marks, after.operation, from_birth=bool(after.from_birth))
        aggregate = self._aggregates.aggregate_of(after)
        aggregate.count(growth)
        if ended_now(before, after):
            aggregate.count_end(after)
        if after.final and not before.final:
            aggregate.note_final(after)
            self._changed.aggregates[aggregate.environment, aggregate.group, aggregate.name] = None
        self._aggregates.observe(before, after)
        return after._replace(marks=marks)

    def publish(self, statuses: tuple[EnvironmentStatus, ...], now: Moment) -> View:
        """Render what changed since the last view, and return all as it stands."""
        entries: dict[OperationKey, Entry | None] = {}
        for key in self._changed.rows:
            before, operation = self._snapshot.operations.get(key), self.find(key)
            entry = entries[key] = self._entry(operation) if operation is not None else None
            self._size += sum(size_of(each.lines) * sign for each, sign in ((entry, 1), (before, -1)) if each)
        self._aggregates.render(now)
        self.groups.settle(now)
        self._snapshot = self._snapshot.changed(entries, self._aggregates.counts, self.groups.statuses, statuses)
        self._set_gauges()
        aggregates, groups, runs = self._aggregates.aggregates, self._aggregates.groups, self.groups.rows
        size = self._size + aggregates.size + groups.size + runs.size
        return View(self._snapshot, aggregates.publish(), groups.publish(), runs.publish(), size)

    def _entry(self, operation: FollowedOperation) -> Entry:
        tracked, rank = operation.tracked, operation.rank or exposure.rank(operation.tracked)
        shown = operation.environment.top_n.shows(operation.rank)
        lines = render_operation(tracked, self._labels) if shown else ()
        return Entry(tracked, operation.memberships, rank, tracked.state, operation.history, lines)

    def _set_gauges(self) -> None:
        for name, each in self._environments.items():
            self._activity.in_flight.labels(name).set(each.in_flight)
            self._activity.rate_limit.labels(name).set(each.upstream.rate_limiter.rate)
            self._activity.suspended.labels(name).set(each.upstream.circuit_breaker.suspended)
            self._activity.operations.labels(name).set(len(each.operations))
            self._activity.not_exposed.labels(name).set(len(each.operations) - each.lost - each.top_n.shown)
            longest = each.intervals.most
            if longest is None:
                self._activity.poll_interval.remove(name)
            else:
                self._activity.poll_interval.labels(name).set(longest)


def _rank(operation: FollowedOperation, now: Moment) -> Rank | None:
    hidden = exposure.hidden_at(operation.tracked, operation.environment.settings.per_operation) <= now.mono
    return None if hidden else exposure.rank(operation.tracked)
