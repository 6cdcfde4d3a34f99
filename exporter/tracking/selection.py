"""Which operations are shown, and how many there are. Pure: a snapshot goes in, what was asked for comes out.

Only a run and a part of an id are looked for in all operations: other counts come from the sums, and lists are in order
already.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass, fields
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from exporter.operation import UNKNOWN_NAME, Status
from exporter.tracking import facts
from exporter.tracking.snapshot import by_rank
from exporter.tracking.transitions import LOST, STATES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from exporter.tracking.exposure import Rank
    from exporter.tracking.snapshot import AggregateCounts, Entry, Snapshot
    from exporter.tracking.transitions import Moment

CHOICES_MOST = 200  # of groups or names that a page offers; others can still be asked for


class FilterOption(NamedTuple):
    """A value that a filter can take, and how many operations have it."""

    value: str
    operations: int


@dataclass(frozen=True, slots=True)
class Choices:
    """What there is to choose from; the most frequent first where there are too many to show."""

    environments: tuple[FilterOption, ...]
    groups: tuple[FilterOption, ...]
    names: tuple[FilterOption, ...]
    states: tuple[FilterOption, ...]


@dataclass(frozen=True, slots=True)
class Filter:
    """What is asked for; None: whatever it is. `id` is a part of an id, `status` a state or one of WORDS."""

    environment: str | None = None
    group: str | None = None
    run: str | None = None
    name: str | None = None
    status: str | None = None
    id: str | None = None

    def __bool__(self) -> bool:
        return any(getattr(self, each.name) is not None for each in fields(self))


WORDS: Mapping[str, Callable[[Entry, Moment], bool]] = {
    "unfinished": lambda entry, _now: facts.unfinished(entry),
    "needs_attention": facts.needs_attention,
    "with_errors": lambda entry, _now: entry.tracked.has_errors,
    "stalled": facts.stalled,
    "stale": facts.stale,
}
STATUSES = (*STATES, *WORDS)
# Of which level of rank all operations of a status are; the others can be of any.
_LEVELS = dict.fromkeys(STATUSES, 0) | {Status.FAILED: 1, Status.COMPLETED: 2, LOST: 2}
_ANY_LEVEL = ("needs_attention", "with_errors")


class Part(StrEnum):
    """The parts of the list on a page, in their order."""

    ATTENTION = "attention"
    RUNNING = "running"
    ENDED = "ended"


class _Place(NamedTuple):
    """A stretch of a page's list: of the operations of one level of rank those that `find` leaves."""

    part: Part
    level: int
    status: str  # what counts them, or more than them
    find: Callable[[Iterable[Entry], Moment], Iterator[Entry]]


def _stalled(found: Iterable[Entry], now: Moment) -> Iterator[Entry]:
    # As `facts.stalled`: to call that for each of 50,000 operations takes more than twice as long.
    state, before = Status.PROCESSING, now.wall - facts.STALLED_SECONDS
    return (
        each
        for each in found
        if each.state == state and (change := each.tracked.last_change) is not None and change.wall < before
    )


# The order of pages. No operation is in two places; a place of which the sums count none needs no walk.
_PLACES = (
    _Place(Part.ATTENTION, 1, Status.FAILED, lambda found, _now: iter(found)),
    _Place(
        Part.ATTENTION,
        2,
        "with_errors",
        lambda found, _now: (each for each in found if each.tracked.has_errors and each.state == Status.COMPLETED),
    ),
    _Place(Part.ATTENTION, 0, "stalled", _stalled),
    _Place(
        Part.ATTENTION,
        0,
        "stale",
        # As `facts.stale`, of what is unfinished: to call that takes twice as long.
        lambda found, now: (
            each for each in found if each.tracked.stale_at <= now.mono and not facts.stalled(each, now)
        ),
    ),
    _Place(Part.ATTENTION, 2, LOST, lambda found, _now: (each for each in found if each.state == LOST)),
    _Place(
        Part.RUNNING,
        0,
        "unfinished",
        lambda found, now: (each for each in found if not facts.needs_attention(each, now)),
    ),
    _Place(
        Part.ENDED,
        2,
        Status.COMPLETED,
        lambda found, _now: (each for each in found if each.state == Status.COMPLETED and not each.tracked.has_errors),
    ),
)


def operation_name(entry: Entry) -> str:
    """Return what Knock calls the work, as far as it is known."""
    record = entry.tracked.operation
    return record.name if record is not None else UNKNOWN_NAME


class Selection(NamedTuple):
    """What was asked for: the operations in order, how many they are, and by status those of any."""

    entries: Iterator[Entry]
    total: int
    of_any_status: Counter[str]


def select(snapshot: Snapshot, wanted: Filter, now: Moment, after: Rank | None = None) -> Selection:
    """Find the operations that are asked for; with `after`, `entries` begins behind that rank."""
    order, counts = _found(snapshot, wanted, now)
    level = _level(wanted.status)
    start = bisect_right(order, (level or 0,) if after is None else after, key=by_rank)
    found = filter(_has_status(wanted.status, now), _placed(islice(order, start, None), wanted))
    # Who takes all of them is not to look through what comes after the last.
    total = _total(counts, wanted.status)
    return Selection(found if after is not None else islice(found, total), total, counts)


class PageList(NamedTuple):
    """What a page lists: the operations in its order, how many they are, and by status those of any."""

    entries: Iterator[tuple[Part, Entry]]
    total: int
    of_any_status: Counter[str]


def by_part(snapshot: Snapshot, wanted: Filter, now: Moment) -> PageList:
    """Find the operations that are asked for: what needs attention first, then what runs, then the rest."""
    order, counts = _found(snapshot, wanted, now)
    total, level, has_status = _total(counts, wanted.status), _level(wanted.status), _has_status(wanted.status, now)
    starts = [bisect_left(order, (each,), key=by_rank) for each in range(4)]

    def entries() -> Iterator[tuple[Part, Entry]]:
        for place in _PLACES:
            if counts[place.status] and level in (None, place.level):
                stretch = islice(order, starts[place.level], starts[place.level + 1])
                for each in filter(has_status, place.find(_placed(stretch, wanted), now)):
                    yield place.part, each

    return PageList(islice(entries(), total), total, counts)


def _found(snapshot: Snapshot, wanted: Filter, now: Moment) -> tuple[Sequence[Entry], Counter[str]]:
    """Return in order what has the run and the id that are asked for, and by status how many have all else too."""
    counts = tally(snapshot, wanted, now)
    if wanted.id is None and wanted.run is None:
        counts["needs_attention"] = _count_attention(snapshot, wanted, counts, now)
        return snapshot.order, +counts
    sought = wanted.id or ""
    found = (each for key, each in snapshot.operations.items() if sought in key.id)
    order = sorted(_placed(found, wanted), key=by_rank)
    # A word that holds for none of all needs no walk.
    words = {
        word: sum(holds(each, now) for each in order)
        for word, holds in WORDS.items()
        if counts[word] or word == "needs_attention"
    }
    return order, Counter(words | Counter(each.state for each in order))


def _count_attention(snapshot: Snapshot, wanted: Filter, counts: Counter[str], now: Moment) -> int:
    ended = counts[Status.FAILED] + counts[LOST] + sum(each.completed_with_errors for each in _sums(snapshot, wanted))
    if not (counts["stalled"] and counts["stale"]):
        return ended + counts["stalled"] + counts["stale"]
    # Some may be both.
    unfinished = islice(snapshot.order, bisect_left(snapshot.order, (1,), key=by_rank))
    return ended + sum(facts.needs_attention(each, now) for each in _placed(unfinished, wanted))


def _total(counts: Counter[str], status: str | None) -> int:
    return operations(counts) if status is None else counts[status]


def _level(status: str | None) -> int | None:
    return None if status is None or status in _ANY_LEVEL else _LEVELS[status]


def _has_status(status: str | None, now: Moment) -> Callable[[Entry], bool] | None:
    """Return a check whether an operation has the status that is asked for; None: any will do, as `filter` has it."""
    if status is None:
        return None
    if (word := WORDS.get(status)) is not None:
        return lambda entry: word(entry, now)
    return lambda entry: entry.state == status


def _placed(found: Iterable[Entry], wanted: Filter) -> Iterator[Entry]:
    """Leave what is asked for, whatever its status and id."""
    environment, group, name, run = wanted.environment, wanted.group, wanted.name, wanted.run
    if environment is not None:
        found = (each for each in found if each.rank.environment == environment)
    if group is not None:
        found = (each for each in found if each.tracked.group == group)
    if name is not None:
        found = (each for each in found if operation_name(each) == name)
    if run is not None:
        found = (each for each in found if each.tracked.run == run)
    return iter(found)


def tally(snapshot: Snapshot, wanted: Filter, now: Moment) -> Counter[str]:
    """Count by what `status` can ask for, from the sums: whatever the status and the id that are asked for.

    What needs attention is not counted here: that may take a walk.
    """
    counts = Counter[str]()
    for each in _sums(snapshot, wanted):
        stale = bisect_right(each.stale_at, now.mono)
        stalled = bisect_left(each.changes, now.wall - facts.STALLED_SECONDS)
        counts.update(each.states)
        counts.update(unfinished=len(each.stale_at), with_errors=each.with_errors, stale=stale, stalled=stalled)
    return counts


def _sums(snapshot: Snapshot, wanted: Filter) -> Iterator[AggregateCounts]:
    """Return the sums of what is asked for, as far as there are such."""
    place = (wanted.environment, wanted.group, wanted.name)
    for each in snapshot.counts:
        if all(value is None or value == it for value, it in zip(place, each, strict=False)):
            yield each


def operations(counts: Counter[str]) -> int:
    """Return how many operations were counted."""
    return sum(counts[state] for state in STATES)


def choices(snapshot: Snapshot) -> Choices:
    """Return what there is to choose from."""
    environments, groups, names, states = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for each in snapshot.counts:
        count = sum(each.states.values())
        environments[each.environment] += count
        groups[each.group] += count
        names[each.name] += count
        states.update(each.states)
    environments.update({each.name: 0 for each in snapshot.environments})
    in_order = tuple(FilterOption(state, states[state]) for state in STATES if states[state])
    return Choices(_offered(environments), _offered(+groups), _offered(+names), in_order)


def _offered(counts: Counter[str]) -> tuple[FilterOption, ...]:
    return tuple(sorted(FilterOption(*each) for each in counts.most_common(CHOICES_MOST)))
