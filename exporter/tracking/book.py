"""The book of all operations: who is tracked, what they add up to, and how it is published.

Every change of an operation goes through `update`. Only what it touched is rendered again, once, when the next view is
published.
"""

from __future__ import annotations

from dataclasses import replace
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from exporter.metrics.exposition import RenderedRows, View, render_operation
from exporter.operation import UNKNOWN_NAME, OperationKey
from exporter.tracking import exposure
from exporter.tracking.aggregates import Aggregates
from exporter.tracking.exposure import TopN
from exporter.tracking.ledger import contribution_of, ended_now, grow

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from exporter.metrics.own import Activity
    from exporter.tracking.environment import WatchedEnvironment
    from exporter.tracking.exposure import CardinalityLimit, Rank
    from exporter.tracking.group_commit import GroupCommit
    from exporter.tracking.memory import AggregateKey, StoredAggregate
    from exporter.tracking.transitions import Moment, Tracked


class Book:
    """All tracked operations. Owned by the tracker's thread; `group_commit` is told what is to be remembered."""

    def __init__(
        self,
        environments: Mapping[str, WatchedEnvironment],
        labels: Sequence[str],
        activity: Activity,
        group_commit: GroupCommit,
    ) -> None:
        self._environments = environments
        self._labels = labels
        self._activity = activity
        self._group_commit = group_commit
        self._operations: dict[OperationKey, Tracked] = {}
        self._aggregates = Aggregates()
        self._rendered = RenderedRows()
        self._touched: dict[OperationKey, None] = {}
        self._hidings: list[tuple[float, OperationKey]] = []
        self.changed = True
        self.generation = 0  # of what is published: counts the configurations

    def __len__(self) -> int:
        return len(self._operations)

    def get(self, key: OperationKey) -> Tracked | None:
        """Return an operation as it stands, if it is tracked."""
        return self._operations.get(key)

    def of(self, environment: str) -> Iterator[Tracked]:
        """Walk through the operations of an environment."""
        return (each for each in self._operations.values() if each.key.environment == environment)

    def exposes(self, key: OperationKey) -> bool:
        """Whether a tracked operation has series of its own."""
        return self._environments[key.environment].top_n.shows(key.id)

    @property
    def touched(self) -> Collection[OperationKey]:
        """The operations that the next view shows otherwise than the last one, or no more."""
        return self._touched.keys()

    def touch(self, key: OperationKey) -> None:
        """Note that something besides the record of an operation has changed."""
        self._touched[key] = None
        self.changed = True

    # Environments.

    def restore(self, aggregates: Mapping[AggregateKey, StoredAggregate]) -> None:
        """Begin with what the aggregates of an environment remember."""
        for place, memory in aggregates.items():
            self._aggregates.remember(place, memory)
        self.changed = True

    def remove_environment(self, name: str) -> None:
        """End with an environment: nothing of it is shown any more."""
        for key in [each.key for each in self.of(name)]:
            del self._operations[key]
            self._touched[key] = None  # those dropped since the last view are among the touched ones already
        self._aggregates.remove_environment(name)
        self.changed = True

    def change_exposure(self, environment: WatchedEnvironment, now: Moment) -> None:
        """Show the operations of an environment as its settings now say."""
        environment.top_n = TopN(environment.settings.per_operation_limit)
        shown = [each for each in self.of(environment.name) if not self._is_hidden(each, now)]
        environment.top_n.fill(exposure.rank(each) for each in shown)
        self._touch_all(environment.name)

    def use_labels(self, labels: Sequence[str]) -> None:
        """Show these declared labels from now on."""
        if labels != self._labels:
            self._labels = labels
            for name in self._environments:
                self._touch_all(name)

    def _touch_all(self, environment: str) -> None:
        self._touched |= dict.fromkeys(each.key for each in self.of(environment))
        self.changed = True

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
            self._group_commit.dirty.environments[environment.name] = None
        return admitted

    def update(self, after: Tracked, now: Moment) -> Tracked:
        """Take in an operation, new or changed, and return it with its marks raised and its name admitted."""
        before = self._operations.get(after.key)
        after = self._admitted(before, after)
        if before is not None and after.operation is not None and after.operation is not before.operation:
            after = self._count(before, after)
        self._operations[after.key] = after
        if before is not None:
            self._aggregates.aggregate_of(before).remove(contribution_of(before))
            self._tally(before, -1)
        self._aggregates.aggregate_of(after).add(contribution_of(after))
        self._tally(after, 1)
        self._touched[after.key] = None
        self._show(after, now)
        self.changed = True
        return after

    def remove(self, key: OperationKey, reason: str | None) -> None:
        """Drop an operation; `reason` is counted: retention or limit (None: somebody said so)."""
        before = self._operations.pop(key)
        aggregate = self._aggregates.aggregate_of(before)
        aggregate.remove(contribution_of(before))
        if reason is not None:
            aggregate.retired[reason] += 1
        self._tally(before, -1)
        self._touched |= dict.fromkeys([key, *self._placed(before, None)])
        self.changed = True

    def _admitted(self, before: Tracked | None, after: Tracked) -> Tracked:
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
            environment = self._environments[after.key.environment]
            name = self._admit(environment, "name", environment.names, record.name)
        return after if name == record.name else replace(after, operation=replace(record, name=name))

    def _count(self, before: Tracked, after: Tracked) -> Tracked:
        if after.operation is None:
            return after
        marks, growth = grow(before.marks, after.operation, from_birth=bool(after.from_birth))
        aggregate = self._aggregates.aggregate_of(after)
        aggregate.count(growth)
        if ended_now(before, after):
            aggregate.count_end(after)
        if after.final and not before.final:
            aggregate.note_final(after)
            self._group_commit.dirty.aggregates[aggregate.environment, aggregate.group, aggregate.name] = None
        self._aggregates.observe(before, after)
        return replace(after, marks=marks)

    def _tally(self, tracked: Tracked, sign: int) -> None:
        environment = self._environments[tracked.key.environment]
        environment.tracked += sign
        environment.lost += sign * tracked.lost
        environment.missing += sign * (tracked.missing_since is not None)
        if tracked.active:
            (environment.intervals.add if sign > 0 else environment.intervals.remove)(tracked.interval)

    def _show(self, tracked: Tracked, now: Moment) -> None:
        rank = None if self._is_hidden(tracked, now) else exposure.rank(tracked)
        self._touched |= dict.fromkeys(self._placed(tracked, rank))

    def _placed(self, tracked: Tracked, rank: Rank | None) -> Iterator[OperationKey]:
        environment = self._environments[tracked.key.environment]
        return (OperationKey(environment.name, each) for each in environment.top_n.place(tracked.key.id, rank))

    def _is_hidden(self, tracked: Tracked, now: Moment) -> bool:
        mode = self._environments[tracked.key.environment].settings.per_operation
        hidden_at = exposure.hidden_at(tracked, mode)
        if hidden_at is None or hidden_at <= now.mono:
            return hidden_at is not None
        heappush(self._hidings, (hidden_at, tracked.key))
        return False

    def hide_due(self, now: Moment) -> None:
        """Take away the series of clean operations whose time in `active` mode is over."""
        while self._hidings and self._hidings[0][0] <= now.mono:
            _, key = heappop(self._hidings)
            if (tracked := self._operations.get(key)) is not None:
                self._show(tracked, now)
                self.changed = True

    def next_hiding(self) -> float:
        """Return when `hide_due` has work next (monotonic; inf: never)."""
        return self._hidings[0][0] if self._hidings else float("inf")

    def publish(self) -> View:
        """Render what changed since the last view, and return all as it stands."""
        for key in self._touched:
            self._render_operation(key)
        self._touched = {}
        self._aggregates.render()
        self._publish_gauges()
        self.changed = False
        all_rendered = self._rendered, self._aggregates.aggregates, self._aggregates.groups
        operations, aggregates, groups = (rendered.publish() for rendered in all_rendered)
        size = sum(rendered.size for rendered in all_rendered)
        return View(operations, aggregates, groups, self._aggregates.stale, size, self.generation)

    def _render_operation(self, key: OperationKey) -> None:
        tracked = self._operations.get(key)
        if tracked is None or not self.exposes(key):
            self._rendered.drop(key)
        else:
            self._rendered.put(key, render_operation(tracked, self._labels))

    def _publish_gauges(self) -> None:
        for name, each in self._environments.items():
            self._activity.operations.labels(name).set(each.tracked)
            self._activity.not_exposed.labels(name).set(each.tracked - each.lost - each.top_n.shown)
            longest = each.intervals.most
            if longest is None:
                self._activity.poll_interval.remove(name)
            else:
                self._activity.poll_interval.labels(name).set(longest)
