"""What follows from what is known of one operation; None where it cannot be known."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from exporter.operation import FINAL, Status
from exporter.tracking.memberships import SourceKind
from exporter.tracking.transitions import LOST
from exporter.values import show_url

if TYPE_CHECKING:
    from exporter.tracking.memberships import SourceKey
    from exporter.tracking.snapshot import Entry, EnvironmentStatus
    from exporter.tracking.transitions import Moment

STALLED_SECONDS = 900.0  # as `stalled_seconds` of monitoring/thresholds.yaml
UNCHANGED_SECONDS = 60.0  # from when on it is told for how long nothing has changed
_ENDED = FINAL | {LOST}


def rate(entry: Entry, now: Moment) -> float | None:
    """Return the rows a second of an operation that is being processed; None also where that is old news."""
    record = entry.tracked.operation
    if record is None or record.status is not Status.PROCESSING or stale(entry, now):
        return None
    return entry.history.rate


def time_left(entry: Entry, now: Moment) -> float | None:
    """Return the seconds until its end: known only while rows move and the estimate is not passed."""
    share, speed, record = progress(entry), rate(entry, now), entry.tracked.operation
    if share is None or not speed or record is None or entry.tracked.up is not True:
        return None
    return ((record.rows_estimated or 0) - (record.rows_processed or 0)) / speed


def progress(entry: Entry) -> float | None:
    """Return the share (0 to 1) of the estimated rows that are processed; None without an estimate, or past it."""
    record = entry.tracked.operation
    if record is None or not record.rows_estimated or record.rows_processed is None:
        return None
    return record.rows_processed / record.rows_estimated if record.rows_processed <= record.rows_estimated else None


def next_poll(entry: Entry, now: Moment) -> float | None:
    """Return when it is asked next (Unix seconds; in the past: it waits for its turn); None: never again."""
    due = entry.tracked.due
    return None if due is None else now.wall + due - now.mono


def age(entry: Entry, now: Moment) -> float:
    """Return the seconds since Knock made it, or where that is not known since it was handed over."""
    record = entry.tracked.operation
    since = record.inserted_at if record is not None and record.inserted_at is not None else None
    return max(0.0, now.wall - (entry.tracked.handed_over.wall if since is None else since))


def unfinished(entry: Entry) -> bool:
    """Whether it is followed and not at its end."""
    return entry.state not in _ENDED


def stale(entry: Entry, now: Moment) -> bool:
    """Whether it is unfinished and Knock has not answered about it for too long."""
    return unfinished(entry) and now.mono >= entry.tracked.stale_at


def unchanged_for(entry: Entry, now: Moment) -> float | None:
    """Return for how many seconds nothing has changed; None unless answers for a minute said so: it is processed."""
    tracked = entry.tracked
    change, read = tracked.last_change, tracked.last_success
    if entry.state != Status.PROCESSING or change is None or read is None or stale(entry, now):
        return None
    return now.mono - change.mono if read.mono - change.mono >= UNCHANGED_SECONDS else None


def stalled(entry: Entry, now: Moment) -> bool:
    """Whether it is processed and has not changed for so long that somebody should look."""
    change = entry.tracked.last_change
    return entry.state == Status.PROCESSING and change is not None and change.wall < now.wall - STALLED_SECONDS


def completed_with_errors(entry: Entry) -> bool:
    """Whether it is completed, and Knock counted or listed a failed item."""
    return entry.state == Status.COMPLETED and entry.tracked.has_errors


def needs_attention(entry: Entry, now: Moment) -> bool:
    """Whether somebody should look: it failed, completed with errors, is lost, stalled or stale."""
    if entry.state in _ENDED:
        return entry.state != Status.COMPLETED or entry.tracked.has_errors
    return stalled(entry, now) or stale(entry, now)


def waiting(status: EnvironmentStatus, now: Moment) -> tuple[int, float]:
    """Return how many polls of an environment are due, and for how many seconds the first of them has been."""
    count = bisect_right(status.due, now.mono)
    return count, now.mono - status.due[0] if count else 0.0


def source_name(source: SourceKey) -> str:
    """Return a source's name as it may be shown: user, password and query of a URL may be secrets."""
    return show_url(source.name) if source.kind is SourceKind.HTTP else source.name
