"""What follows from what is known of a group; None where it cannot be known. Pure.

Page, API and `watch` show these; `monitoring/rules.yaml` has the same formulas for Prometheus, but for what ends a run:
there progress by rows may be 1 while an operation has no record, and the time left stays while nothing is unfinished.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, NamedTuple

from exporter.operation import Status
from exporter.tracking import facts
from exporter.tracking.runs import NOTHING, RunSums
from exporter.tracking.transitions import LOST, STATES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.tracking.runs import GroupKey, Run
    from exporter.tracking.snapshot import GroupStatus, Snapshot
    from exporter.tracking.transitions import Moment

RUNNING_MOST = 0.99  # of the progress by rows while an operation is unfinished
INCOMPLETE_SECONDS = 600.0  # after its closing, a run has had time to be handed over


class GroupState(StrEnum):
    """The one word for a group: the first that holds."""

    DID_NOT_RUN = "did_not_run"
    LATE = "late"
    INCOMPLETE = "incomplete"
    STALLED = "stalled"
    RUNNING = "running"
    DONE_WITH_FAILURES = "done_with_failures"
    DONE = "done"
    IDLE = "idle"


class GroupFacts(NamedTuple):
    """How a group stands; times are Unix seconds, durations seconds.

    `tracked` adds up what is tracked now, of which so many are `stale`; `run_sums` adds up all operations of the run.
    `rate` is rows a second, `progress` a share (0 to 1) of `progress_of`: operations or rows.
    """

    environment: str
    group: str
    state: GroupState
    every: float | None
    last_run: float | None
    progress: float | None
    progress_of: Literal["operations", "rows"] | None
    time_left: float | None
    rate: float | None
    tracked: RunSums
    stale: int
    run: Run | None
    deadline: float | None
    run_sums: RunSums

    def is_incomplete(self, now: float) -> bool:
        """Whether the run has been closed for long, and fewer operations are known than the job declared."""
        return self.run is not None and _is_incomplete(self.run, self.run_sums, now)


class _Tracked(NamedTuple):
    sums: RunSums = NOTHING
    stale: int = 0
    unchanged_since: float | None = None


def group_facts(
    snapshot: Snapshot, now: Moment, environment: str | None = None, group: str | None = None
) -> list[GroupFacts]:
    """Tell how groups stand, by environment and name: those with operations, a run, or something that is expected."""
    statuses = {(each.environment, each.group): each for each in snapshot.groups}
    tracked = _tracked(snapshot, now.mono)
    rates = _rates(snapshot, now.wall)
    known = {key for key, it in tracked.items() if any(it.sums.states)}
    known |= {key for key, it in statuses.items() if it.run is not None or it.every is not None or it.is_declared}
    wanted = sorted(each for each in known if environment in (None, each[0]) and group in (None, each[1]))
    return [_facts(key, statuses.get(key), tracked.get(key, _Tracked()), rates.get(key), now) for key in wanted]


def _tracked(snapshot: Snapshot, now: float) -> dict[GroupKey, _Tracked]:
    found: dict[GroupKey, _Tracked] = {}
    for each in snapshot.counts:
        key = (each.environment, each.group)
        before = found.get(key, _Tracked())
        states = tuple(each.states[state] for state in STATES)
        more = RunSums(states, each.with_errors, each.rows_processed, each.rows_estimated, each.errors)
        since = [at for at in (before.unchanged_since, each.unchanged_since) if at is not None]
        stale = before.stale + bisect_right(each.stale_at, now)
        found[key] = _Tracked(before.sums.plus(more), stale, min(since, default=None))
    return found


def _rates(snapshot: Snapshot, now: float) -> dict[GroupKey, float]:
    """Add up the rows a second of what is processed now: of the sums, as there may be 50,000 operations."""
    rates: dict[GroupKey, float] = {}
    for each in snapshot.counts:
        if each.states[Status.PROCESSING] and (rate := each.growth.rate_lately(now)) is not None:
            key = (each.environment, each.group)
            rates[key] = rates.get(key, 0.0) + rate
    return rates


def _facts(key: GroupKey, status: GroupStatus | None, tracked: _Tracked, rate: float | None, now: Moment) -> GroupFacts:
    run = status.run if status is not None else None
    sums = status.sums if status is not None and run is not None else tracked.sums
    expected = run.operations if run is not None else None
    progress, progress_of = _progress(sums, expected)
    return GroupFacts(
        *key,
        state=next(_states(status, tracked, sums, now.wall)),
        every=status.every if status is not None else None,
        last_run=status.last_run if status is not None else None,
        progress=progress,
        progress_of=progress_of,
        time_left=_time_left(run, progress, now.wall) if sums.unfinished else None,
        rate=rate,
        tracked=tracked.sums,
        stale=tracked.stale,
        run=run,
        deadline=status.deadline if status is not None else None,
        run_sums=sums if run is not None else NOTHING,
    )


def _progress(sums: RunSums, expected: int | None) -> tuple[float | None, Literal["operations", "rows"] | None]:
    if expected:
        return min(sums.ended / expected, 1.0), "operations"
    if sums.rows_estimated:
        # No estimate counts an operation that Knock has not answered about yet.
        most = RUNNING_MOST if sums.unfinished else 1.0
        return min(sums.rows_processed / sums.rows_estimated, most), "rows"
    return None, None


def _time_left(run: Run | None, progress: float | None, now: float) -> float | None:
    """Return the seconds until the end at the pace of the whole run so far, pauses included."""
    if run is None or run.operations is None or run.finished is not None or not progress:
        return None
    elapsed = now - run.opened
    return elapsed / progress - elapsed if elapsed > 0 else None


def _states(status: GroupStatus | None, tracked: _Tracked, sums: RunSums, now: float) -> Iterator[GroupState]:
    """Tell the words that hold, the most urgent first."""
    run = status.run if status is not None else None
    if status is not None and status.every is not None and now - (status.last_run or now) > status.every:
        yield GroupState.DID_NOT_RUN
    if status is not None and run is not None and run.finished is None and now > (status.deadline or math.inf):
        yield GroupState.LATE
    if run is not None and _is_incomplete(run, sums, now):
        yield GroupState.INCOMPLETE
    if now - (tracked.unchanged_since or now) > facts.STALLED_SECONDS:
        yield GroupState.STALLED
    if (run is not None and run.finished is None) or sums.unfinished:
        yield GroupState.RUNNING
    counts = sums.by_state
    if counts[Status.FAILED] or counts[LOST] or sums.with_errors:
        yield GroupState.DONE_WITH_FAILURES
    if run is not None or sums.ended:
        yield GroupState.DONE
    yield GroupState.IDLE


def _is_incomplete(run: Run, sums: RunSums, now: float) -> bool:
    late = run.closed is not None and now - run.closed > INCOMPLETE_SECONDS
    return late and run.operations is not None and sum(sums.states) < run.operations
