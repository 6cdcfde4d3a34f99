"""Which operations are shown, and how many there are. Pure: a snapshot goes in, what was asked for comes out.

Only a run and a part of an id are looked for in all operations: other counts come from the sums, and lists are in order
already.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, fields
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from exporter.operation import UNKNOWN_NAME, Status
from exporter.tracking import facts
from exporter.tracking.snapshot import by_rank
from exporter.tracking.transitions import LOST, STATES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from exporter.tracking.exposure import Rank
    from exporter.tracking.snapshot import Entry, Snapshot
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
    "with_errors": lambda entry, _now: entry.tracked.has_errors,
    "stale": facts.stale,
}
STATUSES = (*STATES, *WORDS)
# Where the first of a status can be: all before it are of another level.
_LEVELS = {Status.FAILED: 1, Status.COMPLETED: 2, LOST: 2}


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
    order, counts = snapshot.order, tally(snapshot, wanted, now)
    if wanted.id is not None or wanted.run is not None:
        sought = wanted.id or ""
        found: Iterable[Entry] = [each for key, each in snapshot.operations.items() if sought in key.id]
        order = sorted(_placed(found, wanted), key=by_rank)
        # A word that holds for none of all needs no walk.
        words = {word: sum(holds(each, now) for each in order) for word, holds in WORDS.items() if counts[word]}
        counts = Counter(words | Counter(each.state for each in order))
    start = (_LEVELS.get(wanted.status or "", 0),) if after is None else after
    found = _placed(islice(order, bisect_right(order, start, key=by_rank), None), wanted)
    status, word = wanted.status, WORDS.get(wanted.status or "")
    if word is not None:
        found = (each for each in found if word(each, now))
    elif status is not None:
        found = (each for each in found if each.state == status)
    # Who takes all of them is not to look through what comes after the last.
    total = operations(counts) if wanted.status is None else counts[wanted.status]
    return Selection(found if after is not None else islice(found, total), total, counts)


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
    """Count by what `status` can ask for, from the sums: whatever the status and the id that are asked for."""
    counts, place = Counter[str](), (wanted.environment, wanted.group, wanted.name)
    for each in snapshot.counts:
        if all(value is None or value == it for value, it in zip(place, each, strict=False)):
            stale = bisect_right(each.stale_at, now.mono)
            counts.update(each.states)
            counts.update(unfinished=len(each.stale_at), with_errors=each.with_errors, stale=stale)
    return counts


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
