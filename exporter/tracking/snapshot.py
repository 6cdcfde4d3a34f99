"""What pages and programs are shown of the operations: all of them as they stand, frozen with each view."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from exporter.tracking.history import NO_HISTORY, History, PollFailure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exporter.operation import OperationKey
    from exporter.tracking.exposure import Rank
    from exporter.tracking.memberships import Memberships, SourceKey
    from exporter.tracking.runs import Run, RunSums
    from exporter.tracking.transitions import Tracked


by_rank = attrgetter("rank")


class Entry(NamedTuple):
    """One operation: what is known of it, who names it, its place in lists, its polls, and its rendered series.

    `rank` and `state` follow from `tracked`: a walk over all that went through it would take four times as long.
    `lines` are its sample lines, one entry per family; none if it has no series of its own.
    """

    tracked: Tracked
    memberships: Memberships
    rank: Rank
    state: str
    history: History = NO_HISTORY
    lines: tuple[bytes, ...] = ()

    @property
    def exposed(self) -> bool:
        """Whether it has series of its own."""
        return bool(self.lines)


@dataclass(frozen=True, slots=True)
class SourceState:
    """A source of ids: how many it names, when it was read last (Unix seconds), and what is wrong with it now."""

    source: SourceKey
    operations: int = 0
    read_at: float | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class LastError:
    """The last request of an environment that brought no record, and when (Unix seconds)."""

    at: float
    trouble: PollFailure


@dataclass(frozen=True, slots=True)
class EnvironmentStatus:
    """How an environment stands.

    `up` as `knock_up` tells it (None: nothing is known yet), `suspended` while the key is refused. `limit` and `pace`
    are the requests a second that are configured and current, `used` those of the last ten seconds. `last_response` is
    Unix seconds. `due` has in order when (monotonic) its operations are asked next.
    """

    name: str
    base_url: str
    branch: str | None
    up: bool | None
    suspended: bool
    limit: float
    pace: float
    used: float
    in_flight: int
    last_response: float | None = None
    last_error: LastError | None = None
    sources: tuple[SourceState, ...] = ()
    due: Sequence[float] = field(default=(), compare=False, repr=False)


class AggregateCounts(NamedTuple):
    """How many operations an aggregate has, by state, and their rows and errors.

    `labels` are encoded; `stale_at` has in order from when on (monotonic) its unfinished operations are stale,
    `changes` when (Unix seconds) those that are processed changed last. `growth` has points of the rows that were seen
    to be processed.
    """

    environment: str
    group: str
    name: str
    labels: str
    states: Mapping[str, int]
    with_errors: int
    completed_with_errors: int
    rows_processed: int
    rows_estimated: int
    errors: int
    changes: Sequence[float]
    growth: History
    stale_at: Sequence[float]

    @property
    def unchanged_since(self) -> float | None:
        """When the operation that is processed and has not changed for longest did so; None: none is processed."""
        return self.changes[0] if self.changes else None


class GroupStatus(NamedTuple):
    """What is expected of a group, and its run; times are Unix seconds, None: not declared, or not known.

    `is_declared`: the configuration names it.
    `every` (seconds) is the longest time between two runs. `last_run` is when the last one began. `run` is the one that
    is shown, `deadline` its own or the group's, `sums` what all its operations add up to. `rows` are points of its rows
    and errors, `ended` of how many operations ended, and how many of them failed or are lost.
    """

    environment: str
    group: str
    is_declared: bool
    every: float | None
    last_run: float | None
    run: Run | None
    deadline: float | None
    sums: RunSums
    rows: History = NO_HISTORY
    ended: History = NO_HISTORY


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All operations, by key and in the order of lists, what they add up to, groups, and environments by name."""

    operations: dict[OperationKey, Entry] = field(default_factory=dict)
    order: Sequence[Entry] = ()
    counts: tuple[AggregateCounts, ...] = ()
    groups: tuple[GroupStatus, ...] = ()
    environments: tuple[EnvironmentStatus, ...] = ()

    def changed(
        self,
        touched: Mapping[OperationKey, Entry | None],
        counts: tuple[AggregateCounts, ...],
        groups: tuple[GroupStatus, ...],
        environments: tuple[EnvironmentStatus, ...],
    ) -> Snapshot:
        """Return the next one, with the touched operations as they are now (None: dropped); this one stays."""
        operations, order = self.operations.copy(), list(self.order)
        edits: list[tuple[int, int, Rank, Entry | None]] = []
        for key, entry in touched.items():
            before = operations.pop(key, None) if entry is None else operations.get(key)
            if entry is not None:
                operations[key] = entry
            if before is not None:
                index = bisect_left(self.order, before.rank, key=by_rank)
                if entry is not None and entry.rank == before.rank:
                    order[index] = entry
                else:
                    edits.append((index, index + 1, before.rank, None))
            if entry is not None and (before is None or entry.rank != before.rank):
                index = bisect_left(self.order, entry.rank, key=by_rank)
                edits.append((index, index, entry.rank, entry))
        edited = _edited(order, sorted(edits)) if edits else order
        return Snapshot(operations, edited, counts, groups, environments)


def _edited(order: Sequence[Entry], edits: Sequence[tuple[int, int, Rank, Entry | None]]) -> Sequence[Entry]:
    edited, end = list[Entry](), 0
    for start, following, _, entry in edits:
        edited += order[end:start]
        if entry is not None:
            edited.append(entry)
        end = following
    return edited + list(order[end:])


NOTHING_SHOWN = Snapshot()
