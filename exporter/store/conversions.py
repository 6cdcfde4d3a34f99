"""Between what the tracker holds and what is stored: what is forgotten here is not kept.

`tests/test_store_documents.py` sets each field to something that is not its default.
"""

from __future__ import annotations

from dataclasses import asdict
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from exporter.operation import Operation, OperationKey
from exporter.store.ages import checkpoint
from exporter.store.documents import (
    AggregateDocument,
    EnvironmentDocument,
    GroupDocument,
    MembershipDocument,
    OperationDocument,
    RunDocument,
    SumsDocument,
    TombstoneDocument,
    UnreadableRow,
    dump,
    shared,
)
from exporter.tracking.memberships import Membership, SourceKey
from exporter.tracking.memory import EnvironmentMemory, Memory, StoredAggregate, StoredOperation
from exporter.tracking.runs import Run, RunSums, StoredGroup
from exporter.tracking.tombstones import Tombstone, Tombstones
from exporter.tracking.transitions import STATES, Marks, Moment, Tracked

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.store.ages import Ages
    from exporter.store.documents import Document
    from exporter.tracking.memory import AggregateKey
    from exporter.tracking.runs import GroupKey

_RECORD = tuple(name for name in Operation.__slots__ if name in OperationDocument.__struct_fields__ and name != "id")
_PLAIN = (
    *("group", "interval", "healthy_interval", "poll_class", "up", "failures", "missing", "odd_polls"),
    *("ended_polls", "lost", "from_birth", "seen_unfinished", "seen_started", "final_seen", "run"),
)
_AGES, _MOMENTS = ("due", "missing_since", "final_at"), ("handed_over", "last_success", "last_change")
_MARKS = tuple(f"mark_{name}" for name in Marks._fields)
_record, _plain, _counts = attrgetter(*_RECORD), attrgetter(*_PLAIN), attrgetter(*_RECORD[2:-1])


def operation_document(key: OperationKey, kept: StoredOperation, ages: Ages) -> OperationDocument:
    """Make a document of an operation."""
    it, record = kept.tracked, kept.tracked.operation
    values: dict[str, Any] = dict(zip(_PLAIN, _plain(it), strict=True))
    values |= {name: None if (mono := getattr(it, name)) is None else ages.age(mono) for name in _AGES}
    for name in _MOMENTS:
        moment = getattr(it, name)
        values[name], values[f"{name}_wall"] = (None, None) if moment is None else checkpoint(ages, moment)
    values |= zip(_MARKS, it.marks, strict=True)
    if record is not None:
        values |= zip(_RECORD, _record(record), strict=True)
    values["collections"] = dict(record.collections if record is not None else ())
    values["namings"] = [
        MembershipDocument(*membership.source, membership.group, dict(membership.labels), membership.run)
        for membership in kept.memberships
    ]
    return OperationDocument(environment=key.environment, id=key.id, labels=dict(it.labels), **values)


def read_operation(key: OperationKey, it: OperationDocument, ages: Ages) -> StoredOperation:
    """Make an operation of its document."""
    # By place, not by name: there may be 50,000 of them to read at the start.
    record: list[Any] = [key.id, it.status, shared(it.name), *_counts(it), _pairs(it.collections or {})]
    tracked = Tracked(
        key,
        shared(it.group),
        _pairs(it.labels),
        Moment(it.handed_over - ages.shift, it.handed_over_wall),
        _mono(it.due, ages),
        it.interval,
        it.healthy_interval,
        it.poll_class,
        None if it.status is None else Operation(*record),
        it.up,
        _moment(it.last_success, it.last_success_wall, ages),
        _moment(it.last_change, it.last_change_wall, ages),
        it.failures,
        it.missing,
        _mono(it.missing_since, ages),
        it.odd_polls,
        it.ended_polls,
        it.lost,
        it.from_birth,
        it.seen_unfinished,
        it.seen_started,
        Marks(it.mark_processed, it.mark_successes, it.mark_errors),
        it.final_seen,
        _mono(it.final_at, ages),
        shared(it.run),
    )
    if not it.namings:
        return StoredOperation(tracked, ())
    memberships = tuple(
        [Membership(SourceKey(each.kind, each.name), each.group, _pairs(each.labels), each.run) for each in it.namings]
    )
    return StoredOperation(tracked, shared(memberships))


def _mono(age: float | None, ages: Ages) -> float | None:
    return None if age is None else age - ages.shift


def _moment(age: float | None, wall: float | None, ages: Ages) -> Moment | None:
    return None if age is None or wall is None else Moment(age - ages.shift, wall)


def _pairs(values: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    pairs = tuple(values.items())
    return shared(pairs) if pairs else pairs


def environment_document(name: str, it: EnvironmentMemory, ages: Ages) -> EnvironmentDocument:
    """Make a document of what an environment remembers."""
    asleep_since = None if it.asleep_since is None else ages.age(it.asleep_since)
    return EnvironmentDocument(environment=name, **asdict(it) | {"asleep_since": asleep_since})


def read_environment(_name: str, it: EnvironmentDocument, ages: Ages) -> EnvironmentMemory:
    """Make what an environment remembers of its document."""
    return EnvironmentMemory(it.base_url, it.branch, it.epoch, it.groups, it.names, _mono(it.asleep_since, ages))


def aggregate_document(key: AggregateKey, it: StoredAggregate, _ages: Ages) -> AggregateDocument:
    """Make a document of what an aggregate remembers."""
    environment, group, name = key
    return AggregateDocument(environment=environment, group=group, name=name, **it._asdict())


def read_aggregate(_key: AggregateKey, it: AggregateDocument, _ages: Ages) -> StoredAggregate:
    """Make what an aggregate remembers of its document."""
    return StoredAggregate(*(getattr(it, name) for name in StoredAggregate._fields))


def group_document(key: GroupKey, it: StoredGroup, _ages: Ages) -> GroupDocument:
    """Make a document of what a group remembers."""
    run = None
    if it.run is not None:
        by_state = {state: count for state, count in it.run.gone.by_state.items() if count}
        run = RunDocument(*it.run[:-1], SumsDocument(by_state, *it.run.gone[1:]))
    return GroupDocument(environment=key[0], group=key[1], **it._asdict() | {"run": run, "past": dict(it.past)})


def read_group(_key: GroupKey, it: GroupDocument, _ages: Ages) -> StoredGroup:
    """Make what a group remembers of its document."""
    run = None
    if it.run is not None:
        gone = it.run.gone
        states = tuple(gone.operations.get(state, 0) for state in STATES)
        sums = RunSums(states, gone.with_errors, gone.rows_processed, gone.rows_estimated, gone.errors)
        run = Run(**{name: getattr(it.run, name) for name in Run._fields} | {"gone": sums})
    return StoredGroup(it.last_inserted, it.every_since, run, it.past)


class Kind(NamedTuple):
    """What is kept in documents of a kind: its field of `Memory` and `Changes`, and how it is stored and read."""

    field: str
    place: Callable[[Any], tuple[str, str]]  # by the tracker's key: its environment, and its key there
    store: Callable[[Any, Any, Ages], Document]
    read: Callable[[Any, Any, Ages], Any]


KINDS = {
    "environment": Kind("environments", lambda name: (name, ""), environment_document, read_environment),
    "operation": Kind("operations", lambda key: key, operation_document, read_operation),
    "cell": Kind("aggregates", lambda key: (key[0], dump(key[1:])), aggregate_document, read_aggregate),
    "group": Kind("groups", lambda key: key, group_document, read_group),
}


class Contents:
    """What is read, document by document, in times of this process."""

    def __init__(self, ages: Ages) -> None:
        self._ages = ages
        self._found: dict[str, dict[Any, Any]] = {kind: {} for kind in KINDS}
        self.tombstones = Tombstones()

    def put(self, kind: str, key: Any, document: Document) -> None:
        """Put a document where nothing is."""
        self._found[kind][key] = KINDS[kind].read(key, document, self._ages)

    def take(self, document: Document) -> None:
        """Take in a document. Raises UnreadableRow where there is one in its place."""
        key = document.key
        kind = "operation" if isinstance(document, TombstoneDocument) else document.kind
        if key in self._found[kind] or (kind == "operation" and key in self.tombstones):
            environment, name = KINDS[kind].place(key)
            raise UnreadableRow(f"{document.kind} {name or environment} is a duplicate")
        if isinstance(document, TombstoneDocument):
            self.tombstones[document.key] = Tombstone(self._ages.mono(document.at), document.retired, document.counted)
        else:
            self.put(kind, key, document)

    def memory(self) -> Memory:
        """Return all of it."""
        return Memory(tombstones=self.tombstones, **{KINDS[kind].field: found for kind, found in self._found.items()})
