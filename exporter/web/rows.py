"""What the pages say of operations and environments. Pure: numbers come out as they are, words ready to be read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from exporter import wording
from exporter.operation import UNKNOWN_NAME, Status
from exporter.tracking import facts
from exporter.tracking.selection import Filter, operation_name, operations, tally
from exporter.tracking.transitions import PENDING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from exporter.operation import OperationKey
    from exporter.tracking.selection import FilterOption
    from exporter.tracking.snapshot import Entry, EnvironmentStatus, Snapshot
    from exporter.tracking.transitions import Moment

CHOICE_LONGEST = 1000  # of a value that a form offers: it becomes a part of the URL
_CONTROLS = re.compile(r"[\0-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Row:
    """One operation; times are Unix seconds, None: not known, or there is none. `next_poll` in the past: it is due."""

    key: OperationKey
    url: str
    name: str
    group: str
    state: str
    notes: tuple[str, ...]
    share: float | None
    progress: str
    rate: float | None
    time_left: float | None
    errors: int | None
    age: float
    polled_at: float | None
    next_poll: float | None


def row(entry: Entry, prefix: str, now: Moment) -> Row:
    """Say what a line says of an operation."""
    tracked, record = entry.tracked, entry.tracked.operation
    key, polls = tracked.key, entry.history.polls
    recorded = tracked.last_success.wall if tracked.last_success is not None else None
    return Row(
        key,
        f"{prefix}/operations/{quote(key.environment)}/{key.id}",
        _name(entry),
        tracked.group,
        tracked.state,
        tuple(_notes(entry, now)),
        facts.progress(entry),
        wording.progress(record.rows_processed, record.rows_estimated) if record else wording.NOT_KNOWN,
        facts.rate(entry, now),
        facts.time_left(entry, now),
        record.errors if record else None,
        facts.age(entry, now),
        polls[-1].at if polls else recorded,
        facts.next_poll(entry, now),
    )


def _name(entry: Entry) -> str:
    name = operation_name(entry)
    return "name not known yet" if name == UNKNOWN_NAME else name if name.strip() else "blank name"


def _notes(entry: Entry, now: Moment) -> list[str]:
    """Say in words what the state alone does not."""
    tracked, notes = entry.tracked, []
    if tracked.state == Status.COMPLETED and tracked.has_errors:
        notes.append("with errors")
    if tracked.state == Status.UNKNOWN:
        notes.append("Knock's word for it is not documented")
    if tracked.state == PENDING:
        notes.append("never read yet")
    if tracked.lost:
        notes.append("Knock does not know it")
    if facts.stale(entry, now):
        since = tracked.last_success or tracked.handed_over
        notes.append(f"stale: not read for {wording.span(now.mono - since.mono)}")
    if tracked.active and tracked.up is False:
        notes.append("last poll failed")
    return notes


@dataclass(frozen=True, slots=True)
class EnvironmentRow:
    """An environment and its operations: `waiting` polls are due, the longest for `longest` seconds."""

    environment_status: EnvironmentStatus
    operations: int
    unfinished: int
    failed: int
    waiting: int
    longest: float


def environment_rows(snapshot: Snapshot, now: Moment) -> tuple[EnvironmentRow, ...]:
    """Say how the environments stand."""
    return tuple(_environment_row(snapshot, each, now) for each in snapshot.environments)


def _environment_row(snapshot: Snapshot, environment_status: EnvironmentStatus, now: Moment) -> EnvironmentRow:
    counts = tally(snapshot, Filter(environment_status.name), now)
    waiting = facts.waiting(environment_status, now)
    return EnvironmentRow(environment_status, operations(counts), counts["unfinished"], counts[Status.FAILED], *waiting)


def headline(found: Sequence[EnvironmentRow]) -> str:
    """Say how everything stands, for the title of a window."""
    troubled = sum(each.environment_status.up is False for each in found)
    words = [f"{sum(each.failed for each in found):,} failed", f"{sum(each.unfinished for each in found):,} unfinished"]
    return ", ".join([f"{troubled} of {len(found)} environments in trouble"] * bool(troubled) + words)


def offered(found: Iterable[FilterOption]) -> tuple[FilterOption, ...]:
    """Return the values that a form can send: browsers change line breaks and drop other control characters."""
    return tuple(each for each in found if len(each.value) <= CHOICE_LONGEST and not _CONTROLS.search(each.value))
