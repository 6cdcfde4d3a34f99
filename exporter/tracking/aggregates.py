"""Aggregates: one for each (environment, group, name), and histograms for each (environment, group)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.metrics import families
from exporter.metrics.exposition import RenderedRows, encode_labels, render
from exporter.operation import UNKNOWN_NAME
from exporter.tracking.history import counted
from exporter.tracking.ledger import Aggregate, GroupAggregate
from exporter.tracking.snapshot import AggregateCounts

if TYPE_CHECKING:
    from exporter.tracking.memory import AggregateKey, StoredAggregate
    from exporter.tracking.transitions import Moment, Tracked


class Aggregates:
    """Owned by the tracker's thread. Whatever asks for an aggregate touches it: it is rendered again."""

    def __init__(self) -> None:
        self.aggregates = RenderedRows()
        self.groups = RenderedRows()
        self._by_key: dict[AggregateKey, Aggregate] = {}
        self._groups: dict[tuple[str, str], GroupAggregate] = {}
        self._labels: dict[AggregateKey, str] = {}
        self._counts: dict[AggregateKey, AggregateCounts] = {}
        self._touched_aggregates: dict[AggregateKey, None] = {}
        self._touched_groups: dict[tuple[str, str], None] = {}

    def aggregate_of(self, tracked: Tracked) -> Aggregate:
        """Return the aggregate that an operation belongs to."""
        name = tracked.operation.name if tracked.operation is not None else UNKNOWN_NAME
        return self._aggregate((tracked.key.environment, tracked.group, name))

    def _aggregate(self, place: AggregateKey) -> Aggregate:
        self._touched_aggregates[place] = None
        aggregate = self._by_key.get(place)
        if aggregate is None:
            aggregate = self._by_key[place] = Aggregate(*place)
            self._labels[place] = encode_labels(families.aggregate_labels(aggregate))
            self._group(place[:2])
        return aggregate

    def _group(self, place: tuple[str, str]) -> GroupAggregate:
        if place not in self._groups:
            self._groups[place] = GroupAggregate(*place)
            self._touched_groups[place] = None
        return self._groups[place]

    def observe(self, before: Tracked, after: Tracked) -> None:
        """Count in the histograms what a change of an operation shows."""
        place = (after.key.environment, after.group)
        if self._group(place).observe(before, after):
            self._touched_groups[place] = None

    def remember(self, place: AggregateKey, memory: StoredAggregate) -> None:
        """Take over what an earlier process knew of an aggregate."""
        self._aggregate(place).remember(memory)

    def remembered(self, place: AggregateKey) -> StoredAggregate | None:
        """Return what is to be remembered of an aggregate."""
        aggregate = self._by_key.get(place)
        return aggregate.memory if aggregate is not None else None

    def all_remembered(self, environment: str) -> dict[AggregateKey, StoredAggregate]:
        """Return what is to be remembered of all aggregates of an environment."""
        return {place: aggregate.memory for place, aggregate in self._by_key.items() if place[0] == environment}

    def remove_environment(self, name: str) -> None:
        """End with an environment."""
        for place in [each for each in self._by_key if each[0] == name]:
            del self._by_key[place], self._labels[place]
            self._counts.pop(place, None)
            self._touched_aggregates.pop(place, None)
            self.aggregates.drop(place)
        for group in [each for each in self._groups if each[0] == name]:
            del self._groups[group]
            self._touched_groups.pop(group, None)
            self.groups.drop(group)

    @property
    def counts(self) -> tuple[AggregateCounts, ...]:
        """How many operations each aggregate has; as of the last `render`."""
        return tuple(self._counts.values())

    def render(self, now: Moment) -> None:
        """Render what was touched."""
        for place in self._touched_aggregates:
            aggregate, labels = self._by_key[place], self._labels[place]
            self.aggregates.put(place, render(families.PER_NAME, labels, aggregate))
            aggregate.growth = counted(aggregate.growth, now.wall, aggregate.processed_total, None)
            self._counts[place] = AggregateCounts(
                *place,
                labels,
                aggregate.tracked.copy(),
                aggregate.with_errors,
                aggregate.completed_with_errors,
                aggregate.all_processed,
                aggregate.all_estimated,
                aggregate.all_errors,
                aggregate.processing_change.frozen(),
                aggregate.growth,
                aggregate.stale_at.frozen(),
            )
        for group_place in self._touched_groups:
            group = self._groups[group_place]
            self.groups.put(group_place, render(families.PER_GROUP, encode_labels(families.group_labels(group)), group))
        self._touched_aggregates, self._touched_groups = {}, {}
