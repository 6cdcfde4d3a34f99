"""What became of an operation over its polls, or of a run: a bounded line of points. Frozen, and packed small.

Kept in memory only: after a restart the line starts again.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from exporter.errors import KnockError

if TYPE_CHECKING:
    from exporter.operation import Operation

POINTS_MOST = 60
GOOD_POLLS_MOST, FAILED_POLLS_MOST = 5, 10
RATE_SECONDS = 120.0  # what "rows a second" looks back to, where the points are that close
_NONE = -1
_POINT, _POLL = Struct("<dqq"), Struct("<df")


class HistoryPoint(NamedTuple):
    """The counts of rows at one time (Unix seconds); None: Knock did not say."""

    at: float
    processed: int | None
    errors: int | None


class PollFailure(NamedTuple):
    """Why a poll brought no record: a `reason` of the failure metrics, and its text."""

    reason: str
    text: str


class PastPoll(NamedTuple):
    """One poll: when it was answered (Unix seconds), how many seconds it took, and what went wrong (None: nothing)."""

    at: float
    seconds: float
    trouble: PollFailure | None


class History(NamedTuple):
    """Points at least `spacing` seconds apart but for the last, and the last polls."""

    packed_points: bytes = b""
    packed_polls: bytes = b""
    troubles: tuple[PollFailure | None, ...] = ()  # one for each poll
    spacing: float = 0.0

    @property
    def points(self) -> tuple[HistoryPoint, ...]:
        """The points, the oldest first."""
        return tuple(_point(self.packed_points, start) for start in range(0, len(self.packed_points), _POINT.size))

    @property
    def polls(self) -> tuple[PastPoll, ...]:
        """The last polls, the oldest first; failed ones are kept longer."""
        times = _POLL.iter_unpack(self.packed_polls)
        return tuple(
            PastPoll(at, seconds, trouble) for (at, seconds), trouble in zip(times, self.troubles, strict=True)
        )

    @property
    def rate(self) -> float | None:
        """Rows a second over the last RATE_SECONDS or the last two points; None where that cannot be told."""
        packed, last, first = self.packed_points, None, None
        for start in range(len(packed) - _POINT.size, -1, -_POINT.size):
            point = _point(packed, start)
            if point.processed is None:
                continue
            if last is None:
                last = point
            elif first is None or last.at - point.at <= RATE_SECONDS:
                first = point
            else:
                break
        return _rate(first, last) if first is not None and last is not None else None

    def rate_lately(self, now: float) -> float | None:
        """Return the rate, None where its last point is older than RATE_SECONDS."""
        if not self.packed_points or _point(self.packed_points, -_POINT.size).at < now - RATE_SECONDS:
            return None
        return self.rate


NO_HISTORY = History()


def recorded(history: History, seconds: float, outcome: Operation | KnockError, at: float) -> History:
    """Note what became of a poll, and the counts that it brought."""
    if isinstance(outcome, KnockError):
        return polled(history, at, seconds, PollFailure(outcome.reason, str(outcome)))
    return plotted(polled(history, at, seconds, None), at, outcome)


def polled(history: History, at: float, seconds: float, trouble: PollFailure | None) -> History:
    """Note a poll."""
    times = [*_POLL.iter_unpack(history.packed_polls), (at, seconds)]
    troubles = [*history.troubles, _same(trouble) if trouble else None]
    failed = [number for number, each in enumerate(troubles) if each]
    good = [number for number, each in enumerate(troubles) if each is None]
    kept = sorted([*failed[-FAILED_POLLS_MOST:], *good[-GOOD_POLLS_MOST:]])
    return history._replace(
        packed_polls=b"".join(_POLL.pack(*times[number]) for number in kept),
        troubles=tuple(troubles[number] for number in kept),
    )


def plotted(history: History, at: float, operation: Operation) -> History:
    """Note the counts that a poll brought."""
    return counted(history, at, operation.rows_processed, operation.errors)


def counted(history: History, at: float, processed: int | None, errors: int | None) -> History:
    """Note counts; where there are too many points, every second one goes."""
    size, packed, spacing = _POINT.size, history.packed_points, history.spacing
    new = _POINT.pack(at, _packable(processed), _packable(errors))
    count = len(packed) // size
    if count > 1 and _goes_on(packed, new, spacing):
        packed = packed[:-size]
    packed += new
    if len(packed) // size > POINTS_MOST:
        points = [packed[start : start + size] for start in range(0, len(packed), size)]
        packed = b"".join([*points[:-1:2], new])
        spacing = max(2 * spacing, 2 * (at - _POINT.unpack(points[0])[0]) / POINTS_MOST)
    return history._replace(packed_points=packed, spacing=spacing)


def without_points(history: History) -> History:
    """Drop the points: what ended well needs no line."""
    return history._replace(packed_points=b"", spacing=0.0)


def _goes_on(packed: bytes, new: bytes, spacing: float) -> bool:
    """Whether the new point takes the place of the last: it came too soon after the one before, or all three agree."""
    before, last = packed[-2 * _POINT.size : -_POINT.size], packed[-_POINT.size :]
    return _POINT.unpack(last)[0] - _POINT.unpack(before)[0] < spacing or before[8:] == last[8:] == new[8:]


def _point(packed: bytes, start: int) -> HistoryPoint:
    at, processed, errors = _POINT.unpack_from(packed, start)
    return HistoryPoint(at, _known(processed), _known(errors))


def _rate(first: HistoryPoint, last: HistoryPoint) -> float | None:
    seconds = last.at - first.at
    if seconds <= 0 or first.processed is None or last.processed is None:
        return None
    return max(0.0, (last.processed - first.processed) / seconds)


def _known(count: int) -> int | None:
    return None if count == _NONE else count


def _packable(count: int | None) -> int:
    return _NONE if count is None else count


@lru_cache(maxsize=1024)
def _same(trouble: PollFailure) -> PollFailure:
    """Return an equal trouble that others hold already: in an outage all operations have the same one."""
    return trouble
