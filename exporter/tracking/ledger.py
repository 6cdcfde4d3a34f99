"""Counters that never count twice, and sums that are kept, not recomputed.

An `Aggregate` holds one (environment, group, name), a `GroupAggregate` one (environment, group). An operation
adds its `Contribution` to its aggregate and takes it away when it changes, so an answer costs the same
whether 10 or 50,000 operations are tracked.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from exporter.operation import Status
from exporter.tracking.history import NO_HISTORY, History
from exporter.tracking.memory import StoredAggregate
from exporter.tracking.transitions import STATES, Marks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.operation import Operation
    from exporter.tracking.transitions import Tracked

RETIREMENTS = ("retention", "limit")
QUEUE_BUCKETS = (1, 5, 15, 30, 60, 120, 300, 900, 1800, 3600, 10800, 43200, 86400)
RUN_BUCKETS = (1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 259200)


class Growth(NamedTuple):
    """What an answer adds to the counters of rows."""

    processed: int = 0
    successes: int = 0
    errors: int = 0


def grow(marks: Marks, record: Operation, *, from_birth: bool) -> tuple[Marks, Growth]:
    """Raise the high-water marks to the record's counts and return what is to be counted for it.

    A first known value counts from 0 only if the operation is this exporter's from birth: otherwise another process may
    have counted it already, and undercounting is accepted where double counting is not.
    """
    pairs = zip(marks, (record.rows_processed, record.successes, record.errors), strict=True)
    steps = [_grown(mark, value, from_birth=from_birth) for mark, value in pairs]
    return Marks(*(mark for mark, _ in steps)), Growth(*(growth for _, growth in steps))


def _grown(mark: int | None, value: int | None, *, from_birth: bool) -> tuple[int | None, int]:
    if value is None:
        return mark, 0
    if mark is None:
        return value, value if from_birth else 0
    return max(mark, value), max(0, value - mark)


def ended_now(before: Tracked, after: Tracked) -> bool:
    """Whether this answer is the end of an operation that counts: from birth, or seen unfinished."""
    return after.final and not before.final and bool(after.from_birth or before.seen_unfinished)


class Ordered:
    """A multiset of numbers, kept in order: smallest, largest and a count below are cheap."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values = array("d")

    def add(self, value: float) -> None:
        """Put a number in."""
        insort(self._values, value)

    def exchange(self, before: float | None, after: float | None) -> None:
        """Take out a number that was put in, and put in another; None: there is none."""
        if before != after:
            if before is not None:
                self.remove(before)
            if after is not None:
                self.add(after)

    def remove(self, value: float) -> None:
        """Take out a number that was put in."""
        index = bisect_left(self._values, value)
        if index == len(self._values) or self._values[index] != value:
            raise ValueError(f"{value} was never added")
        del self._values[index]

    @property
    def least(self) -> float | None:
        """The smallest, if any."""
        return self._values[0] if self._values else None

    @property
    def most(self) -> float | None:
        """The largest, if any."""
        return self._values[-1] if self._values else None

    def frozen(self) -> Sequence[float]:
        """Return a copy that stays as it is, in order."""
        return self._values[:]


class Histogram:
    """Observed durations in seconds, counted by upper bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.total = 0.0
        self._counts = [0] * (len(bounds) + 1)

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def cumulative(self) -> list[int]:
        """Return the counts up to each bound, the last up to +Inf."""
        return list(accumulate(self._counts))


class Contribution(NamedTuple):
    """What one operation adds to the gauges of its aggregate; None where it adds nothing."""

    state: str
    has_errors: bool
    active: bool
    processed: int
    estimated: int
    errors: int
    inserted: float | None
    last_success: float | None
    processing_change: float | None
    stale_at: float | None


NO_TIMES = (None, None, None, None)  # in place of the last four


def contribution_of(tracked: Tracked) -> Contribution:
    """Return what an operation adds to its aggregate; a lost one is only counted, and whether it has errors."""
    record = None if tracked.lost else tracked.operation
    active = tracked.active
    processing = active and record is not None and record.status is Status.PROCESSING and tracked.last_change
    return Contribution(
        state=tracked.state,
        has_errors=tracked.has_errors,
        active=active,
        processed=(record.rows_processed or 0) if record else 0,
        estimated=(record.rows_estimated or 0) if record else 0,
        errors=(record.errors or 0) if record else 0,
        inserted=record.inserted_at if record and active else None,
        last_success=(tracked.last_success or tracked.handed_over).wall if active else None,
        processing_change=processing.wall if processing else None,
        stale_at=tracked.stale_at if active else None,
    )


@dataclass(slots=True)
class Aggregate:
    """The sums and counters of one (environment, group, name). Owned by the tracker's thread."""

    environment: str
    group: str
    name: str
    tracked: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATES, 0))
    with_errors: int = 0
    completed_with_errors: int = 0
    active_processed: int = 0
    active_estimated: int = 0
    all_processed: int = 0
    all_estimated: int = 0
    all_errors: int = 0
    inserted: Ordered = field(default_factory=Ordered)
    last_success: Ordered = field(default_factory=Ordered)
    processing_change: Ordered = field(default_factory=Ordered)
    stale_at: Ordered = field(default_factory=Ordered)
    finished: dict[str, int] = field(default_factory=lambda: {"completed": 0, "failed": 0})
    finished_with_errors: int = 0
    processed_total: int = 0
    growth: History = NO_HISTORY  # points of it
    successes_total: int = 0
    errors_total: int = 0
    retired: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RETIREMENTS, 0))
    last_completed: float | None = None
    last_failed: float | None = None
    last_failed_seen: float | None = None
    last_completed_with_errors_seen: float | None = None

    def exchange(self, before: Contribution | None, after: Contribution | None) -> None:
        """Take away a share of an operation that was added, and add another; None: there is none."""
        for share, sign in ((before, -1), (after, 1)):
            if share is not None:
                self._sum(share, sign)
        ordered = (self.inserted, self.last_success, self.processing_change, self.stale_at)
        old, new = (each[-4:] if each is not None else NO_TIMES for each in (before, after))
        for times, was, is_now in zip(ordered, old, new, strict=True):
            times.exchange(was, is_now)

    def _sum(self, contribution: Contribution, sign: int) -> None:
        self.tracked[contribution.state] += sign
        self.with_errors += sign * contribution.has_errors
        self.completed_with_errors += sign * (contribution.has_errors and contribution.state == Status.COMPLETED)
        self.all_processed += sign * contribution.processed
        self.all_estimated += sign * contribution.estimated
        self.all_errors += sign * contribution.errors
        if contribution.active:
            self.active_processed += sign * contribution.processed
            self.active_estimated += sign * contribution.estimated

    @property
    def memory(self) -> StoredAggregate:
        """What outlives a restart."""
        return StoredAggregate(
            self.last_completed, self.last_failed, self.last_failed_seen, self.last_completed_with_errors_seen
        )

    def remember(self, memory: StoredAggregate) -> None:
        """Take over what an earlier process knew."""
        self.last_completed, self.last_failed = memory.last_completed, memory.last_failed
        self.last_failed_seen = memory.last_failed_seen
        self.last_completed_with_errors_seen = memory.last_completed_with_errors_seen

    def count(self, growth: Growth) -> None:
        """Add growth of rows to the counters."""
        self.processed_total += growth.processed
        self.successes_total += growth.successes
        self.errors_total += growth.errors

    def count_end(self, ended: Tracked) -> None:
        """Count an operation that this exporter saw come to its end."""
        self.finished["failed" if ended.state == Status.FAILED else "completed"] += 1
        self.finished_with_errors += ended.has_errors

    def note_final(self, ended: Tracked) -> None:
        """Date an operation found at its end, however long ago it ended."""
        if ended.operation is None:
            return
        if ended.operation.status is Status.FAILED:
            self.last_failed = _latest(self.last_failed, ended.operation.failed_at)
            self.last_failed_seen = _latest(self.last_failed_seen, ended.final_seen)
            return
        self.last_completed = _latest(self.last_completed, ended.operation.completed_at)
        if ended.has_errors:
            self.last_completed_with_errors_seen = _latest(self.last_completed_with_errors_seen, ended.final_seen)


@dataclass(slots=True)
class GroupAggregate:
    """The histograms of one (environment, group). Owned by the tracker's thread."""

    environment: str
    group: str
    queue: Histogram = field(default_factory=lambda: Histogram(QUEUE_BUCKETS))
    run: dict[str, Histogram] = field(
        default_factory=lambda: {"completed": Histogram(RUN_BUCKETS), "failed": Histogram(RUN_BUCKETS)}
    )

    def observe(self, before: Tracked, after: Tracked) -> bool:
        """Observe how long it queued and ran, each once and only where the change was seen; return whether it did."""
        record = after.operation
        if record is None:
            return False
        started_now = after.seen_started and not before.seen_started
        counts = before.last_success is not None or after.from_birth
        seen = _observe(self.queue, record.inserted_at, record.started_at) if started_now and counts else False
        if ended_now(before, after):
            seen |= _observe(self.run[str(record.status)], record.started_at, record.finished_at)
        return seen


def _observe(histogram: Histogram, since: float | None, until: float | None) -> bool:
    if since is None or until is None or until < since:
        return False
    histogram.observe(until - since)
    return True


def _latest(one: float | None, other: float | None) -> float | None:
    return max((each for each in (one, other) if each is not None), default=None)
