"""What is kept as rows, and back. Where a time is monotonic it is written as an age.

A field that is forgotten here is not kept: `tests/test_store_codec.py` sets each to something that is not its default.
"""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from exporter.operation import Operation, Status
from exporter.store.ages import checkpoint
from exporter.store.layout import (
    COUNT,
    FLAG,
    MAYBE_COUNT,
    MAYBE_FLAG,
    MAYBE_NUMBER,
    MAYBE_TEXT,
    NUMBER,
    TEXT,
    Layout,
    UnreadableRow,
    dump,
    is_encodable,
    parse,
)
from exporter.tracking.memberships import Membership, SourceKey, SourceKind
from exporter.tracking.memory import EnvironmentMemory, StoredAggregate, StoredOperation
from exporter.tracking.pacing import PollClass
from exporter.tracking.transitions import Marks, Moment, Tracked

if TYPE_CHECKING:
    from enum import StrEnum

    from exporter.operation import OperationKey
    from exporter.store.ages import Ages
    from exporter.store.layout import Row
    from exporter.tracking.memberships import Labels, Memberships

OPERATIONS = Layout(
    {
        "group": TEXT,
        "status": MAYBE_TEXT,  # None: never answered
        "name": MAYBE_TEXT,
        "rows_processed": MAYBE_COUNT,
        "rows_estimated": MAYBE_COUNT,
        "successes": MAYBE_COUNT,
        "errors": MAYBE_COUNT,
        "error_items": MAYBE_COUNT,
        "inserted_at": MAYBE_NUMBER,
        "updated_at": MAYBE_NUMBER,
        "started_at": MAYBE_NUMBER,
        "completed_at": MAYBE_NUMBER,
        "failed_at": MAYBE_NUMBER,
        "labels": TEXT,
        "namings": TEXT,
        "handed_over": NUMBER,
        "handed_over_wall": NUMBER,
        "due": MAYBE_NUMBER,
        "interval": NUMBER,
        "healthy_interval": NUMBER,
        "poll_class": TEXT,
        "up": MAYBE_FLAG,
        "last_success": MAYBE_NUMBER,
        "last_success_wall": MAYBE_NUMBER,
        "last_change": MAYBE_NUMBER,
        "last_change_wall": MAYBE_NUMBER,
        "failures": COUNT,
        "missing": COUNT,
        "missing_since": MAYBE_NUMBER,
        "odd_polls": COUNT,
        "ended_polls": COUNT,
        "lost": FLAG,
        "from_birth": MAYBE_FLAG,
        "seen_unfinished": FLAG,
        "seen_started": FLAG,
        "mark_processed": MAYBE_COUNT,
        "mark_successes": MAYBE_COUNT,
        "mark_errors": MAYBE_COUNT,
        "final_seen": MAYBE_NUMBER,
        "final_at": MAYBE_NUMBER,
        "collections": TEXT,
    },
    nested=frozenset({"labels", "namings", "collections"}),
)
ENVIRONMENTS = Layout(
    {
        "base_url": TEXT,
        "branch": MAYBE_TEXT,
        "epoch": NUMBER,
        "groups": TEXT,
        "names": TEXT,
        "asleep_since": MAYBE_NUMBER,
    },
    nested=frozenset({"groups", "names"}),
)
CELLS = Layout(dict.fromkeys(StoredAggregate._fields, MAYBE_NUMBER))

# The word and the size come again with the next answer.
_NOT_PLAIN = ("id", "status", "collections", "status_word", "size")
_RECORD = tuple(each.name for each in fields(Operation) if each.name not in _NOT_PLAIN)
_PLAIN = ("group", "interval", "healthy_interval", "failures", "missing", "odd_polls", "ended_polls", "final_seen")
_FLAGS = ("up", "lost", "from_birth", "seen_unfinished", "seen_started")
_AGES = ("due", "missing_since", "final_at")
_MOMENTS = ("handed_over", "last_success", "last_change")
_MARKS = tuple(f"mark_{name}" for name in Marks._fields)
_STATUSES = {str(each): each for each in Status}
_POLL_CLASSES = {str(each): each for each in PollClass}
_SOURCE_KINDS = {str(each): each for each in SourceKind}
_SHARED = 4096  # labels and namings that many operations share are read, and held, once


def operation_row(kept: StoredOperation, ages: Ages) -> Row:
    """Return the row of an operation, but for its key."""
    it, record = kept.tracked, kept.tracked.operation
    values: dict[str, Any] = {name: getattr(it, name) for name in (*_PLAIN, *_FLAGS)}
    values |= {name: None if (mono := getattr(it, name)) is None else ages.age(mono) for name in _AGES}
    for name in _MOMENTS:
        moment = getattr(it, name)
        values[name], values[f"{name}_wall"] = (None, None) if moment is None else checkpoint(ages, moment)
    values |= zip(_MARKS, it.marks, strict=True)
    values |= {name: None if record is None else getattr(record, name) for name in _RECORD}
    values["status"] = None if record is None else record.status.value
    values["poll_class"] = it.poll_class.value
    values["collections"] = dump(dict(record.collections if record is not None else ()))
    values["labels"] = dump(dict(it.labels))
    values["namings"] = dump([_membership_document(each) for each in kept.memberships])
    return tuple(values[name] for name in OPERATIONS.names)


def read_operation(key: OperationKey, row: Row, ages: Ages) -> StoredOperation:
    """Make an operation of its row. Raises UnreadableRow."""
    # By place, not by name: there may be 50,000 of them to read at the start.
    group, status, *record = OPERATIONS.check(row)[:13]
    labels, memberships, handed_over, handed_over_wall, due, interval, healthy_interval, poll_class, up = row[13:22]
    success, success_wall, change, change_wall, failures, missing, missing_since, odd_polls, ended_polls = row[22:31]
    lost, from_birth, seen_unfinished, seen_started, *marks, final_seen, final_at, collections = row[31:]
    record.append(_collections(collections))
    shift = ages.shift
    tracked = Tracked(
        key,
        group,
        _labels(labels),
        Moment(handed_over - shift, handed_over_wall),
        None if due is None else due - shift,
        interval,
        healthy_interval,
        _POLL_CLASSES.get(poll_class) or _unknown("poll_class", PollClass),
        None if status is None else _operation(key.id, status, record),
        None if up is None else bool(up),
        _moment(success, success_wall, shift),
        _moment(change, change_wall, shift),
        failures,
        missing,
        None if missing_since is None else missing_since - shift,
        odd_polls,
        ended_polls,
        bool(lost),
        None if from_birth is None else bool(from_birth),
        bool(seen_unfinished),
        bool(seen_started),
        Marks(*marks),
        final_seen,
        None if final_at is None else final_at - shift,
    )
    return StoredOperation(tracked, _memberships(memberships))


def _operation(operation_id: str, status: str, rest: list[Any]) -> Operation:
    if rest[0] is None:
        raise UnreadableRow("name: missing")
    return Operation(operation_id, _STATUSES.get(status) or _unknown("status", Status), *rest)


def _moment(age: float | None, wall: float | None, shift: float) -> Moment | None:
    return None if age is None or wall is None else Moment(age - shift, wall)


def _unknown(field: str, words: type[StrEnum]) -> NoReturn:
    raise UnreadableRow(f"{field}: expected one of {', '.join(words)}")


@lru_cache(_SHARED)
def _labels(text: str) -> Labels:
    return _read_labels("labels", parse(text))


def _read_labels(field: str, document: Any) -> Labels:
    if not isinstance(document, dict) or not all(isinstance(value, str) for value in document.values()):
        raise UnreadableRow(f"{field}: expected an object of texts")
    labels = tuple(document.items())
    if not is_encodable(text for pair in labels for text in pair):
        raise UnreadableRow(f"{field}: holds a lone surrogate")
    return labels


@lru_cache(_SHARED)
def _collections(text: str) -> tuple[tuple[str, int], ...]:
    document = parse(text)
    if document is None:  # an export that was written before they were counted
        return ()
    if not isinstance(document, dict) or not all(type(count) is int and count > 0 for count in document.values()):
        raise UnreadableRow("collections: expected an object of numbers")
    if not is_encodable(document):
        raise UnreadableRow("collections: holds a lone surrogate")
    return tuple(document.items())


def _membership_document(membership: Membership) -> dict[str, Any]:
    return {**membership.source._asdict(), "group": membership.group, "labels": dict(membership.labels)}


@lru_cache(_SHARED)
def _memberships(text: str) -> Memberships:
    documents = parse(text)
    if not isinstance(documents, list):
        raise UnreadableRow("namings: expected a list")
    return tuple(_membership(each) for each in documents)


def _membership(document: Any) -> Membership:
    match document:
        case {"kind": str(kind), "name": str(name), "group": str(group), "labels": labels, **rest} if not rest:
            if not is_encodable((name, group)):
                raise UnreadableRow("namings: holds a lone surrogate")
            source = SourceKey(_SOURCE_KINDS.get(kind) or _unknown("namings", SourceKind), name)
            return Membership(source, group, _read_labels("namings", labels))
        case _:
            raise UnreadableRow("namings: expected kind, name, group and labels of each")


def environment_row(it: EnvironmentMemory, ages: Ages) -> Row:
    """Return the row of an environment, but for its name."""
    asleep_since = None if it.asleep_since is None else ages.age(it.asleep_since)
    return (it.base_url, it.branch, it.epoch, dump(it.groups), dump(it.names), asleep_since)


def read_environment(row: Row, ages: Ages) -> EnvironmentMemory:
    """Make what an environment remembers of its row. Raises UnreadableRow."""
    base_url, branch, epoch, groups, names, asleep_since = ENVIRONMENTS.check(row)
    return EnvironmentMemory(
        base_url,
        branch,
        epoch,
        _texts("groups", groups),
        _texts("names", names),
        None if asleep_since is None else ages.mono(asleep_since),
    )


def _texts(field: str, text: str) -> tuple[str, ...]:
    texts = parse(text)
    if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts) or not is_encodable(texts):
        raise UnreadableRow(f"{field}: expected a list of texts")
    return tuple(texts)


def read_aggregate(row: Row) -> StoredAggregate:
    """Make what an aggregate remembers of its row. Raises UnreadableRow."""
    return StoredAggregate(*CELLS.check(row))
