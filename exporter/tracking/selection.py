"""Which operations are shown, and how many there are. Pure: a snapshot goes in, what was asked for comes out.

Only a part of an id is looked for in all operations: other counts come from the sums, and lists are in order already.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from exporter.operation import UNKNOWN_NAME, Status
from exporter.tracking import facts
from exporter.tracking.snapshot import entry_rank
from exporter.tracking.transitions import LOST, PENDING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from exporter.tracking.exposure import Rank
    from exporter.tracking.snapshot import Entry, Snapshot
    from exporter.tracking.transitions import Moment

STATES = (PENDING, *(str(each) for each in Status), LOST)
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
    name: str | None = None
    status: str | None = None
    id: str | None = None

    def __bool__(self) -> bool:
        return any(getattr(self, each.name) is not None for each in fields(self))


WORDS: Mapping[str, Callable[[Entry, Moment], bool]] = {
    "unfinished": lambda entry, _now: entry.tracked.active,
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


def select(snapshot: Snapshot, wanted: Filter, now: Moment, after: Rank | None = None) -> Iterator[Entry]:
    """Give the operations that are asked for, in order: all, or those after a rank."""
    order = snapshot.order
    start = (_LEVELS.get(wanted.status or "", 0),) if after is None else after
    found: Iterator[Entry] = islice(order, bisect_right(order, start, key=entry_rank), None)
    if wanted.environment is not None:
        found = (each for each in found if each.tracked.key.environment == wanted.environment)
    if wanted.id is not None:
        found = (each for each in found if wanted.id in each.tracked.key.id)
    if wanted.group is not None:
        found = (each for each in found if each.tracked.group == wanted.group)
    if wanted.name is not None:
        found = (each for each in found if operation_name(each) == wanted.name)
    if wanted.status is not None:
        word = WORDS.get(wanted.status)
        found = (each for each in found if (word(each, now) if word else each.tracked.state == wanted.status))
    return found


def tally(snapshot: Snapshot, wanted: Filter, now: Moment) -> Counter[str]:
    """Count the operations that are asked for, of any status, by what `status` can ask for."""
    counts = Counter[str]()
    if wanted.id is not None:
        for entry in select(snapshot, replace(wanted, status=None), now):
            counts[entry.tracked.state] += 1
            counts.update(word for word, holds in WORDS.items() if holds(entry, now))
        return counts
    place = (wanted.environment, wanted.group, wanted.name)
    for each in snapshot.counts:
        if all(value is None or value == it for value, it in zip(place, each, strict=False)):
            stale = bisect_right(each.stale_at, now.mono)
            words = {"unfinished": len(each.stale_at), "with_errors": each.with_errors, "stale": stale}
            counts.update(each.states)
            counts.update(words)
    return counts


def total(counts: Counter[str], status: str | None = None) -> int:
    """Return how many operations of a tally have a status, or are there at all."""
    return sum(counts[state] for state in STATES) if status is None else counts[status]


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
