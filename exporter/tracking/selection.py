"""Which operations are shown, and in which order. Pure: the whole snapshot goes in, what was asked for comes out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NamedTuple

from exporter.operation import UNKNOWN_NAME, Status
from exporter.tracking import facts
from exporter.tracking.exposure import rank
from exporter.tracking.transitions import LOST, PENDING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from exporter.tracking.snapshot import Entry, Snapshot
    from exporter.tracking.transitions import Moment

STATES = (PENDING, *(str(each) for each in Status), LOST)
CHOICES_MOST = 200  # of groups or names that a page offers; others can still be asked for

Place = tuple[int, float, str, str]  # orders operations: level, newest first, id, environment


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


def operation_name(entry: Entry) -> str:
    """Return what Knock calls the work, as far as it is known."""
    record = entry.tracked.operation
    return record.name if record is not None else UNKNOWN_NAME


def place(entry: Entry) -> Place:
    """Return what orders operations: unfinished, failed, the rest, the newest first in each."""
    level, newest_first, operation_id = rank(entry.tracked)
    return level, newest_first, operation_id, entry.tracked.key.environment


def select(snapshot: Snapshot, wanted: Filter, now: Moment) -> list[Entry]:
    """Return the operations that are asked for, in order."""
    found = list(snapshot)
    if wanted.environment is not None:
        found = [each for each in found if each.tracked.key.environment == wanted.environment]
    if wanted.id is not None:
        found = [each for each in found if wanted.id in each.tracked.key.id]
    if wanted.group is not None:
        found = [each for each in found if each.tracked.group == wanted.group]
    if wanted.name is not None:
        found = [each for each in found if operation_name(each) == wanted.name]
    if wanted.status is not None:
        word = WORDS.get(wanted.status)
        found = [each for each in found if (word(each, now) if word else each.tracked.state == wanted.status)]
    return sorted(found, key=place)


def choices(snapshot: Snapshot) -> Choices:
    """Return what there is to choose from."""
    environments, groups, names, states = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for entry in snapshot:
        environments[entry.tracked.key.environment] += 1
        groups[entry.tracked.group] += 1
        names[operation_name(entry)] += 1
        states[entry.tracked.state] += 1
    environments.update({each.name: 0 for each in snapshot.environments})
    in_order = tuple(FilterOption(state, states[state]) for state in STATES if states[state])
    return Choices(_offered(environments), _offered(groups), _offered(names), in_order)


def _offered(counts: Counter[str]) -> tuple[FilterOption, ...]:
    return tuple(sorted(FilterOption(*each) for each in counts.most_common(CHOICES_MOST)))
