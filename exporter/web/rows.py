"""What the pages say. Pure: numbers come out as they are, words ready to be read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from heapq import nsmallest
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urlencode

from exporter import wording
from exporter.operation import GROUP, UNKNOWN_NAME, Status
from exporter.tracking import facts
from exporter.tracking.group_facts import GroupState
from exporter.tracking.selection import Filter, operation_name, operations, tally
from exporter.tracking.transitions import LOST, PENDING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from exporter.operation import OperationKey
    from exporter.tracking.group_facts import GroupFacts
    from exporter.tracking.runs import RunSums
    from exporter.tracking.selection import FilterOption
    from exporter.tracking.snapshot import Entry, EnvironmentStatus, Snapshot
    from exporter.tracking.transitions import Moment

SLOWEST = 5  # operations, by each measure
CHOICE_LONGEST = 1000  # of a value that a form offers: it becomes a part of the URL
_CONTROLS = re.compile(r"[\0-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Row:
    """One operation; times are Unix seconds, None: not known, or there is none. `next_poll` in the past: it is due.

    `bar` names the color of its progress, `end` is when it ended, or is expected to.
    """

    key: OperationKey
    url: str
    name: str
    group: str
    group_url: str
    state: str
    notes: tuple[str, ...]
    flawed: bool
    share: float | None
    bar: str
    progress: str
    rate: float | None
    time_left: float | None
    end: float | None
    errors: int | None
    next_poll: float | None


def row(entry: Entry, prefix: str, now: Moment) -> Row:
    """Say what a line says of an operation."""
    tracked, record = entry.tracked, entry.tracked.operation
    key, time_left = tracked.key, facts.time_left(entry, now)
    ended = record.finished_at if record is not None else None
    flawed = facts.completed_with_errors(entry)
    return Row(
        key,
        f"{prefix}/operations/{quote(key.environment)}/{key.id}",
        _name(entry),
        tracked.group,
        group_path(prefix, key.environment, tracked.group),
        tracked.state,
        tuple(_notes(entry, now)),
        flawed,
        facts.progress(entry),
        "flawed" if flawed else tracked.state,
        wording.progress(record.rows_processed, record.rows_estimated) if record else wording.NOT_KNOWN,
        facts.rate(entry, now),
        time_left,
        now.wall + time_left if time_left is not None else ended,
        record.errors if record else None,
        facts.next_poll(entry, now),
    )


def group_path(prefix: str, environment: str, group: str) -> str:
    """Return where the page of a group is."""
    return f"{prefix}/groups/{quote(environment)}/{quote(group, safe='')}"


def _name(entry: Entry) -> str:
    name = operation_name(entry)
    return "name not known yet" if name == UNKNOWN_NAME else name if name.strip() else "blank name"


def _notes(entry: Entry, now: Moment) -> list[str]:
    """Say in words what the state alone does not."""
    tracked, notes = entry.tracked, []
    if tracked.state == Status.UNKNOWN:
        notes.append("Knock's status is not documented")
    if tracked.state == PENDING:
        notes.append("not read yet")
    if tracked.lost:
        notes.append("Knock answers 404")
    if (unchanged := facts.unchanged_for(entry, now)) is not None:
        notes.append(f"no change for {wording.span(unchanged)}")
    if facts.stale(entry, now):
        since = tracked.last_success or tracked.handed_over
        notes.append(f"stale: not read for {wording.span(now.mono - since.mono)}")
    if tracked.active and tracked.up is False:
        notes.append("last poll failed" if tracked.missing_since is None else "Knock answers 404")
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


class EnvironmentTrouble(NamedTuple):
    """What is wrong with an environment."""

    name: str
    problem: str


def environment_rows(snapshot: Snapshot, now: Moment) -> tuple[EnvironmentRow, ...]:
    """Say how the environments stand."""
    return tuple(_environment_row(snapshot, each, now) for each in snapshot.environments)


def _environment_row(snapshot: Snapshot, environment_status: EnvironmentStatus, now: Moment) -> EnvironmentRow:
    counts = tally(snapshot, Filter(environment_status.name), now)
    waiting = facts.waiting(environment_status, now)
    return EnvironmentRow(environment_status, operations(counts), counts["unfinished"], counts[Status.FAILED], *waiting)


def troubled(found: Iterable[EnvironmentRow]) -> list[EnvironmentTrouble]:
    """Return what is wrong with environments, in few words."""
    problems = ((each.environment_status.name, _problem(each.environment_status)) for each in found)
    return [EnvironmentTrouble(name, problem) for name, problem in problems if problem is not None]


def _problem(it: EnvironmentStatus) -> str | None:
    if it.suspended:
        return "key refused"
    if it.up is False:
        return "cannot be read"
    broken = sum(each.problem is not None for each in it.sources)
    return f"{wording.counted(broken, 'source')} cannot be read" if broken else None


def headline(found: Sequence[EnvironmentRow]) -> str:
    """Say how everything stands, for the title of a window."""
    troubled = sum(each.environment_status.up is False for each in found)
    words = [f"{sum(each.failed for each in found):,} failed", f"{sum(each.unfinished for each in found):,} unfinished"]
    return ", ".join([f"{troubled} of {len(found)} environments in trouble"] * bool(troubled) + words)


_PLACES = {
    GroupState.DID_NOT_RUN: 0,
    GroupState.LATE: 1,
    GroupState.INCOMPLETE: 2,
    GroupState.STALLED: 3,
    GroupState.RUNNING: 5,
    GroupState.DONE_WITH_FAILURES: 6,
    GroupState.DONE: 7,
    GroupState.IDLE: 8,
}
_UNHANDLED = 4  # where something failed that is still followed


@dataclass(frozen=True, slots=True)
class GroupRow:
    """A group: its run, or without one what is followed; `expected` operations are None where nobody said how many.

    `standing` has by status what is followed still: a run counts also what has been dropped.
    """

    facts: GroupFacts
    url: str
    list_url: str
    word: str
    progress: str
    finished: int
    expected: int | None
    failed: int
    lost: int
    with_errors: int
    standing: Mapping[str, int]

    @property
    def place(self) -> int:
        """Where it stands among others: what needs attention first."""
        place = _PLACES[self.facts.state]
        return min(place, _UNHANDLED) if any(self.standing.values()) else place

    @property
    def color(self) -> str:
        """What its word and bar are colored by: errors alone are a warning."""
        mild = self.facts.state is GroupState.DONE_WITH_FAILURES and not (self.failed or self.lost)
        return "flawed" if mild else self.facts.state

    @property
    def is_troubled(self) -> bool:
        """Whether it needs attention as a whole, whatever its operations do."""
        return self.place < _UNHANDLED

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to tell that the operations do not: nobody named it, and nothing is expected."""
        return self.facts.group == GROUP and self.facts.run is None and self.facts.every is None


def group_rows(found: Iterable[GroupFacts], prefix: str) -> list[GroupRow]:
    """Say how the groups stand, those that need attention first; none where nobody uses groups."""
    made = [group_row(each, prefix) for each in found]
    if all(each.is_plain for each in made):
        return []
    return sorted(made, key=lambda each: (each.place, each.facts.environment, each.facts.group))


def group_row(it: GroupFacts, prefix: str) -> GroupRow:
    """Say what a line says of a group."""
    sums, followed = (it.run_sums if it.run is not None else it.tracked), it.tracked.by_state
    counts = sums.by_state
    return GroupRow(
        it,
        group_path(prefix, it.environment, it.group),
        f"{prefix}/?{urlencode({'environment': it.environment, 'group': it.group})}",
        it.state.replace("_", " "),
        _group_progress(it, sums),
        sums.ended,
        it.run.operations if it.run is not None else sum(sums.states),
        counts[Status.FAILED],
        counts[LOST],
        sums.with_errors,
        {
            "failed": followed[Status.FAILED],
            "lost": followed[LOST],
            "with_errors": it.tracked.with_errors,
            "stale": it.stale,
        },
    )


def _group_progress(it: GroupFacts, sums: RunSums) -> str:
    if it.progress is None or it.progress_of is None:
        return wording.NOT_KNOWN
    told = f"{wording.percent(it.progress)} of {it.progress_of}"
    if it.progress_of == "operations":
        return told
    return f"{told}: {wording.progress(sums.rows_processed, sums.rows_estimated)}"


def slowest(entries: Iterable[Entry], now: Moment) -> list[Entry]:
    """Return the unfinished operations that run longest, and those with the lowest rates."""
    running = [each for each in entries if each.state == Status.PROCESSING]
    longest = nsmallest(SLOWEST, running, key=_begun)
    rates = [(rate, each) for each in running if (rate := facts.rate(each, now)) is not None]
    slow = [each for _, each in nsmallest(SLOWEST, rates, key=lambda each: each[0])]
    return sorted({each.tracked.key: each for each in (*longest, *slow)}.values(), key=_begun)


def _begun(entry: Entry) -> float:
    record = entry.tracked.operation
    known = (record.started_at, record.inserted_at) if record is not None else ()
    return next((at for at in known if at is not None), entry.tracked.handed_over.wall)


def offered(found: Iterable[FilterOption]) -> tuple[FilterOption, ...]:
    """Return the values that a form can send: browsers change line breaks and drop other control characters."""
    return tuple(each for each in found if len(each.value) <= CHOICE_LONGEST and not _CONTROLS.search(each.value))
