"""Runs of groups: what is kept of them, and how it changes. Frozen values, pure steps; all times are Unix seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypedDict

from exporter.tracking.tombstones import KEPT_SECONDS
from exporter.tracking.transitions import LOST, STATES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.tracking.transitions import Tracked

GroupKey = tuple[str, str]  # environment, group

NO_RUN = ""  # as the run of an operation: it was counted in one, and joins no other
PAST_MOST = 1000
JOIN_SLACK = 60.0  # seconds before the opening: clocks differ
_ENDED = tuple(STATES.index(state) for state in ("completed", "failed", LOST))
_FAILED = tuple(STATES.index(state) for state in ("failed", LOST))
_ONLY = {state: tuple(int(state == each) for each in STATES) for state in STATES}


class RunSums(NamedTuple):
    """What operations add up to: how many by state (in the order of STATES), how many with errors; rows and errors."""

    states: tuple[int, ...] = (0,) * len(STATES)
    with_errors: int = 0
    rows_processed: int = 0
    rows_estimated: int = 0
    errors: int = 0

    def plus(self, other: RunSums, sign: int = 1) -> RunSums:
        """Return the sum; with -1 what is left without the other."""
        states = tuple([one + sign * more for one, more in zip(self.states, other.states, strict=True)])
        return RunSums(states, *(one + sign * more for one, more in zip(self[1:], other[1:], strict=True)))

    @property
    def by_state(self) -> dict[str, int]:
        """How many operations are in each state, those at 0 too."""
        return dict(zip(STATES, self.states, strict=True))

    @property
    def ended(self) -> int:
        """How many are final or lost."""
        return sum(self.states[place] for place in _ENDED)

    @property
    def failed(self) -> int:
        """How many failed or are lost."""
        return sum(self.states[place] for place in _FAILED)

    @property
    def unfinished(self) -> int:
        """How many are neither final nor lost."""
        return sum(self.states) - self.ended


NOTHING = RunSums()


def sums_of(tracked: Tracked) -> RunSums:
    """Return what one operation adds to its run; a lost one its last values."""
    record = tracked.operation
    if record is None:
        return RunSums(_ONLY[tracked.state])
    counts = (record.rows_processed or 0, record.rows_estimated or 0, record.errors or 0)
    return RunSums(_ONLY[tracked.state], int(tracked.has_errors), *counts)


class Run(NamedTuple):
    """A run as it is kept.

    `operations` is how many the job declared; `deadline` the run's own. `closed`: the job said that it has submitted
    everything. `finished`: all that was expected was first seen ended. `newest` is its last event; `gone` adds up the
    operations that are followed no more.
    """

    id: str
    opened: float
    operations: int | None = None
    deadline: float | None = None
    closed: float | None = None
    finished: float | None = None
    newest: float = 0.0
    gone: RunSums = NOTHING


class StoredGroup(NamedTuple):
    """What is remembered of a group.

    `last_inserted` is the newest `inserted_at` seen, `every_since` when the configuration first said how often it runs.
    `past` has the ids of earlier runs, and when each was followed by another.
    """

    last_inserted: float | None = None
    every_since: float | None = None
    run: Run | None = None
    past: Mapping[str, float] = {}


class RunDeadline(NamedTuple):
    """When a run is to be finished: `seconds` after its opening, or at a time."""

    seconds: float | None = None
    at: float | None = None


class RunChanges(TypedDict, total=False):
    """What a job says of its run; what is absent stays, None clears."""

    operations: int | None
    deadline: RunDeadline | None
    closed: bool | None


def opened(group: StoredGroup, run_id: str, now: float) -> StoredGroup:
    """Begin a run; the one before is past."""
    past = group.past if group.run is None else {**group.past, group.run.id: now}
    kept = [(id_, at) for id_, at in past.items() if at + KEPT_SECONDS > now][-PAST_MOST:]
    return group._replace(run=Run(run_id, now, newest=now), past=dict(kept))


def changed(run: Run, changes: RunChanges, sums: RunSums, now: float) -> Run:
    """Take in what a job says of its run; `sums` are those of all its operations."""
    run = run._replace(newest=now)
    if "operations" in changes:
        run = run._replace(operations=changes["operations"])
        if run.operations is not None and run.operations > sums.ended:
            run = run._replace(finished=None)
    if "deadline" in changes:
        given = changes["deadline"]
        seconds = given.seconds if given is not None else None
        absolute = given.at if given is not None else None
        run = run._replace(deadline=absolute if seconds is None else run.opened + seconds)
    if "closed" in changes:
        closed = _since(run, now) if run.closed is None else run.closed
        run = run._replace(closed=closed if changes["closed"] else None)
    return run


def finished(run: Run, sums: RunSums, now: float) -> Run:
    """Date the end of a run, once all that is expected has ended; it stays."""
    if run.finished is not None or sums.unfinished:
        return run
    done = run.closed is not None if run.operations is None else sums.ended >= run.operations
    return run._replace(finished=_since(run, now), newest=now) if done else run


def _since(run: Run, now: float) -> float:
    # Not before its opening, also where the clock went back: alerts ask for that.
    return max(now, run.opened)
