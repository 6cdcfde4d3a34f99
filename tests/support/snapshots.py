"""A snapshot of operations as the tracker would make it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.tracking.aggregates import Aggregates
from exporter.tracking.exposure import rank
from exporter.tracking.history import NO_HISTORY
from exporter.tracking.ledger import contribution_of
from exporter.tracking.snapshot import NOTHING_SHOWN, Entry, Snapshot
from exporter.tracking.transitions import Moment

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exporter.tracking.history import History
    from exporter.tracking.snapshot import EnvironmentStatus, GroupStatus
    from exporter.tracking.transitions import Tracked


def entry_of(operation: Tracked, history: History = NO_HISTORY) -> Entry:
    """Build what is shown of an operation that nobody names."""
    return Entry(operation, (), rank(operation), operation.state, history)


def snapshot_of(
    operations: Iterable[Tracked], statuses: Iterable[EnvironmentStatus], groups: tuple[GroupStatus, ...] = ()
) -> Snapshot:
    """Build it; the last operation of a key counts."""
    by_key = {each.key: each for each in operations}
    aggregates = Aggregates()
    for each in by_key.values():
        aggregates.aggregate_of(each).exchange(None, contribution_of(each))
    aggregates.render(Moment(0.0, 0.0))
    entries = {key: entry_of(each) for key, each in by_key.items()}
    in_full = tuple(_with_due(each, by_key.values()) for each in statuses)
    return NOTHING_SHOWN.changed(entries, aggregates.counts, groups, in_full)


def _with_due(status: EnvironmentStatus, operations: Iterable[Tracked]) -> EnvironmentStatus:
    times = [each.due for each in operations if each.key.environment == status.name and each.due is not None]
    return replace(status, due=sorted(times))
