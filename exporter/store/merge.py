"""What an import changes: no registration is lost, nothing ends up counted twice, and what has ended stays ended.

Counting too little is accepted where the two sides do not know enough of each other. To import the same again changes
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

from exporter.operation import UNKNOWN_NAME
from exporter.tracking.exposure import GROUPS_MOST, NAMES_MOST, CardinalityLimit
from exporter.tracking.memberships import SourceKind, group_of, labels_of
from exporter.tracking.memory import Changes, EnvironmentMemory, Memory, StoredAggregate, StoredOperation
from exporter.tracking.tombstones import Tombstone
from exporter.tracking.transitions import NO_MARKS, Marks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exporter.operation import OperationKey
    from exporter.tracking.memberships import Membership, Memberships
    from exporter.tracking.transitions import Moment, Tracked

Number = TypeVar("Number", int, float)

_RANKS = {kind: rank for rank, kind in enumerate(SourceKind)}


def merge(here: Memory, taken: Memory, now: Moment) -> Changes:
    """Return what is to be changed here."""
    labels = {name: _Labels(here, taken, name) for name in _names(taken)}
    operations: dict[OperationKey, StoredOperation | None] = {}
    tombstones: dict[OperationKey, Tombstone | None] = {}
    for key in chain(taken.operations, taken.tombstones):
        before = here.operations.get(key) or here.tombstones.get(key)
        after = settled(before, taken.operations.get(key) or taken.tombstones[key])
        if isinstance(after, StoredOperation):
            after = labels[key.environment].folded(after)
        if after == before:
            continue
        if isinstance(after, StoredOperation) or key in here.operations:
            operations[key] = after if isinstance(after, StoredOperation) else None
        if isinstance(after, Tombstone) or key in here.tombstones:
            tombstones[key] = after if isinstance(after, Tombstone) else None
    aggregates = _aggregates(here, taken, labels)
    environments = {name: _environment(here, taken, name, labels[name]) for name in taken.environments}
    return Changes(0, now, operations, tombstones, aggregates, environments)


def _names(memory: Memory) -> set[str]:
    operations = {key.environment for key in chain(memory.operations, memory.tombstones)}
    return operations | {place[0] for place in memory.aggregates} | set(memory.environments)


# Operations.


def settled(
    before: StoredOperation | Tombstone | None, taken: StoredOperation | Tombstone
) -> StoredOperation | Tombstone:
    """Return what is to be known of an operation after an import."""
    match before, taken:
        case StoredOperation(), StoredOperation():
            return _united(before, taken)
        case Tombstone(), Tombstone():
            return Tombstone(max(before.at, taken.at), before.retired or taken.retired)
        case StoredOperation(), Tombstone():
            old = not before.tracked.final and _had_its_time(before, taken)
            return taken if old else _uncounted(before)
        case Tombstone(), StoredOperation():
            return before if _had_its_time(taken, before) else _uncounted(taken)
        case _:
            return taken


def _had_its_time(kept: StoredOperation, stone: Tombstone) -> bool:
    """Whether an operation that one side follows was over on the other, and was not brought back afterwards.

    A snapshot that is not final is old then. A final one stays where it is followed, for its retention there; it does
    not come back to where it was retired, to retire and be counted as such again.
    """
    return stone.retired and kept.tracked.handed_over.mono <= stone.at


def _uncounted(kept: StoredOperation) -> StoredOperation:
    """Return what one side follows and the other dropped.

    How much of it the other had counted, nobody knows any more: what Knock says next only sets the marks.
    """
    tracked = replace(kept.tracked, marks=NO_MARKS, from_birth=False, seen_unfinished=False, seen_started=True)
    return StoredOperation(tracked, kept.memberships)


def _united(before: StoredOperation, taken: StoredOperation) -> StoredOperation:
    newer, older = (taken, before) if _completeness(taken.tracked) > _completeness(before.tracked) else (before, taken)
    memberships = _all_memberships(before.memberships, taken.memberships)
    ours, theirs = newer.tracked, older.tracked
    tracked = replace(
        ours,
        group=group_of(memberships) if memberships else ours.group,
        labels=labels_of(memberships) if memberships else ours.labels,
        handed_over=min(ours.handed_over, theirs.handed_over),
        marks=_marks((ours, theirs)),
        from_birth=_all_known((ours, theirs), (ours.from_birth, theirs.from_birth)),
        seen_unfinished=bool(_all_known((ours, theirs), (ours.seen_unfinished, theirs.seen_unfinished))),
        seen_started=ours.seen_started or theirs.seen_started,
    )
    return StoredOperation(tracked, memberships)


def _completeness(tracked: Tracked) -> tuple[bool, float, bool]:
    """Order by how much is told: the end, the later answer of Knock, any record."""
    success = tracked.last_success
    return tracked.final, success.mono if success is not None else float("-inf"), tracked.operation is not None


def _all_known(sides: tuple[Tracked, Tracked], facts: tuple[bool | None, bool | None]) -> bool | None:
    """Return whether something is so on each side that knows how far back it knows the operation; None: neither."""
    told = [fact for side, fact in zip(sides, facts, strict=True) if side.from_birth is not None]
    return all(told) if told else None


def _marks(sides: tuple[Tracked, Tracked]) -> Marks:
    """Return the highest mark of each count.

    A side that came to know it late and has no mark may have counted before: then the next value sets the mark, and
    nothing is counted for it.
    """
    late = [side.marks for side in sides if side.from_birth is False]
    highest = [_most(*pair) for pair in zip(sides[0].marks, sides[1].marks, strict=True)]
    for marks in late:
        highest = [None if mark is None else most for mark, most in zip(marks, highest, strict=True)]
    return Marks(*highest)


def _most(one: Number | None, other: Number | None) -> Number | None:
    if one is None or other is None:
        return one if other is None else other
    return max(one, other)


def _all_memberships(before: Memberships, taken: Memberships) -> Memberships:
    by_source = {membership.source: membership for membership in (*before, *taken)}
    return tuple(sorted(by_source.values(), key=_precedence))


def _precedence(membership: Membership) -> tuple[int, str]:
    return _RANKS[membership.source.kind], membership.source.name


# Environments and aggregates.


@dataclass(slots=True)
class _Values:
    """The values of one label that are let in, in their order."""

    cardinality_limit: CardinalityLimit
    admitted: dict[str, None] = field(default_factory=dict)

    def fold(self, value: str) -> str:
        folded = self.cardinality_limit.admit(value)
        if folded == value:
            self.admitted[value] = None
        return folded


class _Labels:
    """Groups and names of an environment: what was let in here comes first, then what was let in there."""

    def __init__(self, here: Memory, taken: Memory, name: str) -> None:
        sides = [memory.environments[name] for memory in (here, taken) if name in memory.environments]
        self.groups, self.names = _Values(CardinalityLimit(GROUPS_MOST)), _Values(CardinalityLimit(NAMES_MOST))
        for side in sides:
            _fold_all(self.groups, side.groups)
            _fold_all(self.names, side.names)

    def name(self, value: str) -> str:
        return value if value == UNKNOWN_NAME else self.names.fold(value)

    def folded(self, kept: StoredOperation) -> StoredOperation:
        it = kept.tracked
        record = it.operation and replace(it.operation, name=self.name(it.operation.name))
        return StoredOperation(replace(it, group=self.groups.fold(it.group), operation=record), kept.memberships)


def _fold_all(values: _Values, texts: Iterable[str]) -> None:
    for text in texts:
        values.fold(text)


def _environment(here: Memory, taken: Memory, name: str, labels: _Labels) -> EnvironmentMemory:
    theirs = taken.environments[name]
    ours = here.environments.get(name, theirs)
    return replace(
        ours,
        epoch=max(ours.epoch, theirs.epoch),
        groups=tuple(labels.groups.admitted),
        names=tuple(labels.names.admitted),
        asleep_since=None,
    )


def _aggregates(
    here: Memory, taken: Memory, labels: dict[str, _Labels]
) -> dict[tuple[str, str, str], StoredAggregate | None]:
    after: dict[tuple[str, str, str], StoredAggregate | None] = {}
    for (environment, group, name), aggregate in taken.aggregates.items():
        place = (environment, labels[environment].groups.fold(group), labels[environment].name(name))
        before = after.get(place) or here.aggregates.get(place) or StoredAggregate()
        after[place] = StoredAggregate(*(_most(*pair) for pair in zip(before, aggregate, strict=True)))
    return after
