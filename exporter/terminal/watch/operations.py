"""A set of operations that is watched until each has ended: frozen, with time and chance as arguments.

What an answer means, and when to ask again, is the tracker's: `tracking/transitions.py` and `tracking/pacing.py`.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from exporter.config import Polling
from exporter.errors import KeyRefused, NotFound, RateLimited
from exporter.operation import GROUP, Operation, OperationKey, Status
from exporter.terminal.watch.core import (
    REACHED,
    UNREACHABLE_SECONDS,
    Frame,
    Reach,
    Watched,
    WatchOutcome,
    judged,
    sum_of,
)
from exporter.terminal.watch.documents import updated
from exporter.tracking import history, transitions
from exporter.tracking.transitions import STATES, Circumstances, Moment
from exporter.wording import first_few, span

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from exporter.errors import KnockError
    from exporter.tracking.transitions import Tracked

MISSING_SECONDS = 300.0  # of 404s: then the operation is taken as lost
DEFAULT_POLLING = Polling()
_NOT_KNOWN = NotFound("not known")


@dataclass(frozen=True, slots=True)
class WatchedOperations:
    """The operations of one environment, by id in the order in which they were named; `asked` says who is asked."""

    title: str
    environment: str
    watched: Mapping[str, Watched]
    polling: Polling
    reach: Reach = REACHED
    asked: str = "Knock"

    def succeeded(self, operation: Operation, at: Moment, seconds: float, chance: float) -> WatchedOperations:
        """Take in a record from Knock, which took so many seconds."""
        before = self.watched[operation.id]
        line = history.recorded(before.history, seconds, operation, at.wall)
        tracked = transitions.succeeded(before.tracked, operation, self._circumstances(at, chance))
        rate = line.rate if operation.status is Status.PROCESSING else None
        return self._with(Watched(tracked, rate, _time_left(operation, rate), history=line))

    def failed(
        self, operation_id: str, error: KnockError, problem: str, at: Moment, chance: float
    ) -> WatchedOperations:
        """Take in a poll that brought no record; `problem` is the error as people are told it."""
        before = self.watched[operation_id]
        if isinstance(error, RateLimited):  # it stays due: the upstream waits
            return replace(self, reach=Reach(problem=problem))
        if isinstance(error, NotFound):
            return self.missing(operation_id, at, chance)
        reach = self.reach.failed(problem, at.mono, refused=isinstance(error, KeyRefused))
        tracked = transitions.failed(before.tracked, error, self._circumstances(at, chance))
        tracked = _no_later(tracked, (reach.failing_since or 0.0) + UNREACHABLE_SECONDS, at.mono)
        return self._with(before._replace(tracked=tracked), reach)

    def missing(self, operation_id: str, at: Moment, chance: float) -> WatchedOperations:
        """Take in that it is not known."""
        before = self.watched[operation_id]
        tracked = transitions.failed(before.tracked, _NOT_KNOWN, self._circumstances(at, chance))
        tracked = _no_later(tracked, (tracked.missing_since or 0.0) + MISSING_SECONDS, at.mono)
        return self._with(before._replace(tracked=tracked, rate=None, time_left=None))

    def reported(self, document: Mapping[str, Any], at: Moment) -> WatchedOperations:
        """Take in what an exporter's API said of one of them."""
        return self._with(updated(document, self.watched[document["id"]].tracked, at))

    def unreachable(self, problem: str, at: Moment, *, refused: bool) -> WatchedOperations:
        """Take in that the exporter did not answer."""
        return replace(self, reach=self.reach.failed(problem, at.mono, refused=refused))

    def next_due(self, under_way: Collection[str] = ()) -> tuple[float, str]:
        """Return when to ask next (inf: never), and for which."""
        found = [
            (each.tracked.due, operation_id)
            for operation_id, each in self.watched.items()
            if each.tracked.due is not None and operation_id not in under_way
        ]
        return min(found, default=(math.inf, ""))

    @property
    def place(self) -> dict[str, Any]:
        """What the result says it is."""
        return {"environment": self.environment}

    def outcome(self, *, allow_errors: bool) -> WatchOutcome | None:
        """Return the end; None while it goes on."""
        if (end := self.reach.outcome()) is not None:
            return end
        if any(each.tracked.active for each in self.watched.values()):
            return None
        return judged(self._counts(), self._with_errors(), allow_errors=allow_errors)

    def frame(self) -> Frame:
        """Return what is shown of it now."""
        watched = list(self.watched.values())
        counts = self._counts()
        processed, rate = sum_of([each.processed for each in watched]), sum_of([each.rate for each in watched])
        active = [each for each in watched if each.tracked.active]
        # Those that have ended are done, whatever their estimates say.
        rest = [max(each.estimated - (each.processed or 0), 0) for each in active if each.estimated is not None]
        rows = (processed or 0) + sum(rest)
        by_rows = rows > 0 and len(rest) == len(active)
        done, of = (processed or 0, rows) if by_rows else (len(watched) - len(active), len(watched))
        return Frame(
            title=self.title,
            word="running" if active else "done",
            watched=watched,
            counts=counts,
            expected=None,
            with_errors=self._with_errors(),
            processed=_whole(processed),
            estimated=_whole(sum_of([each.estimated for each in watched])),
            errors=_whole(sum_of([each.errors for each in watched])),
            progress=done / of,
            progress_of="rows" if by_rows else "operations",
            rate=rate,
            time_left=sum(rest) / rate if by_rows and rate and active else None,
            problem=self.reach.problem,
            note=self._unknown(),
        )

    def _unknown(self) -> str:
        missing = [
            key for key, each in self.watched.items() if each.tracked.active and each.tracked.missing_since is not None
        ]
        asked_for = f"asking again for up to {span(MISSING_SECONDS)}"
        return f"{self.asked} does not know {first_few(missing)} (HTTP 404): {asked_for}" if missing else ""

    def _counts(self) -> Mapping[str, int]:
        counted = Counter(each.tracked.state for each in self.watched.values())
        return {state: counted[state] for state in STATES}

    def _with_errors(self) -> int:
        return sum(each.has_errors and each.tracked.state == Status.COMPLETED for each in self.watched.values())

    def _with(self, changed: Watched, reach: Reach = REACHED) -> WatchedOperations:
        return replace(self, watched={**self.watched, changed.id: changed}, reach=reach)

    def _circumstances(self, at: Moment, chance: float) -> Circumstances:
        return Circumstances(at, chance, self.polling, epoch=at.wall, trusted=True)


def begin(
    title: str, environment: str, ids: Sequence[str], at: Moment, polling: Polling = DEFAULT_POLLING
) -> WatchedOperations:
    """Begin with ids of which nothing is known yet."""
    settled = replace(polling, not_found_after=MISSING_SECONDS)
    keys = [OperationKey(environment, each) for each in dict.fromkeys(ids)]
    watched = {key.id: Watched(transitions.newly_tracked(key, GROUP, (), at, settled)) for key in keys}
    return WatchedOperations(title, environment, watched, settled)


def _no_later(tracked: Tracked, limit: float, now: float) -> Tracked:
    """Have it asked again when time is up, where it would be later."""
    if tracked.due is None or limit <= now:
        return tracked
    return tracked._replace(due=min(tracked.due, limit))


def _time_left(operation: Operation, rate: float | None) -> float | None:
    if not rate or operation.rows_estimated is None or operation.rows_processed is None:
        return None
    rows = operation.rows_estimated - operation.rows_processed
    return rows / rate if rows >= 0 else None


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
