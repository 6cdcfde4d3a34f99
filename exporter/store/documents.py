"""What is stored, as JSON: a document for each environment, group, operation and aggregate, as in an export.

The names are the file's own: what the tracker renames keeps its name here. Where a time is monotonic it is stored as an
age. A field that is forgotten here is not kept: `tests/test_store_documents.py` sets each to something that is not its
default. A later field needs a default, so that documents without it can be read.
"""
# Without `from __future__ import annotations`: msgspec reads these.

import re
from functools import lru_cache
from json import dumps as ascii_json
from operator import attrgetter
from typing import Annotated, Any, NamedTuple, TypeVar

from msgspec import Meta, Struct, ValidationError, json

from exporter.operation import MAX_COUNT, Operation, OperationKey, Status, is_operation_id
from exporter.tracking.memberships import Membership, SourceKey, SourceKind
from exporter.tracking.memory import AggregateKey, EnvironmentMemory, Memory, StoredAggregate, StoredOperation
from exporter.tracking.pacing import PollClass
from exporter.tracking.runs import GroupKey, Run, RunSums, StoredGroup
from exporter.tracking.tombstones import Tombstone, Tombstones
from exporter.tracking.transitions import STATES, Marks, Moment, Tracked
from exporter.values import NAME

Number = Annotated[float, Meta(ge=-MAX_COUNT, le=MAX_COUNT)]  # what is beyond is not a time
Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
Sum = Annotated[int, Meta(ge=0)]

_is_environment = re.compile(NAME).fullmatch
_MISSING = re.compile("Object missing required field `(.*)`")
_UNKNOWN = re.compile("Object contains unknown field `(.*)`")


class UnreadableRow(ValueError):
    """What cannot be what this program wrote; says which field and why."""


# Times.


class Ages(NamedTuple):
    """Turns monotonic times of this process into ages and back, so that they mean the same to the next process.

    An age runs with monotonic time while a process has the file, and with wall time in between.
    """

    shift: float

    def age(self, mono: float) -> float:
        """Return what stands in the file for a monotonic time."""
        return mono + self.shift

    def mono(self, age: float) -> float:
        """Return the monotonic time of an age; negative if it was before this machine's start."""
        return age - self.shift


class Checkpoint(NamedTuple):
    """When the file was last true: its age, and the wall time (Unix seconds)."""

    age: float
    wall: float

    def ages(self, now: Moment) -> Ages:
        """Go on from here: the wall time since counts, and a wall clock that went back counts as no time."""
        return Ages(self.age + max(0.0, now.wall - self.wall) - now.mono)


def first_ages(now: Moment) -> Ages:
    """Begin a new file: its ages look like Unix seconds, for anyone who reads it in a shell."""
    return Ages(now.wall - now.mono)


def checkpoint(ages: Ages, at: Moment) -> Checkpoint:
    """Return the checkpoint of a moment."""
    return Checkpoint(ages.age(at.mono), at.wall)


# Documents. What is None is left out.


class _Document(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="kind"):
    environment: str

    def __post_init__(self) -> None:
        if not _is_environment(self.environment):
            raise ValueError("environment: expected a name of a-z, 0-9, _ and -")

    @property
    def kind(self) -> str:
        """What it is of."""
        return str(self.__struct_config__.tag)

    @property
    def row_key(self) -> str:
        """What tells it from the others of its kind and environment, in the file."""
        return ""


class _OperationDocument(_Document, frozen=True, kw_only=True):
    id: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_operation_id(self.id):
            raise ValueError("id: is not a valid UUID")

    @property
    def row_key(self) -> str:
        return self.id

    @property
    def key(self) -> OperationKey:
        """What names it."""
        return OperationKey(_shared(self.environment), self.id.lower())


class MembershipDocument(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """That a source names an operation."""

    kind: SourceKind
    name: str
    group: str
    labels: dict[str, str]
    run: str | None = None


class OperationDocument(_OperationDocument, frozen=True, kw_only=True, tag="operation"):
    """An operation, its record, and who names it; `namings` and `mark_…` are memberships and marks.

    `run` is empty where it was counted in one, and joins no other.
    """

    group: str
    status: Status | None = None  # None: never answered
    name: str | None = None
    rows_processed: Count | None = None
    rows_estimated: Count | None = None
    successes: Count | None = None
    errors: Count | None = None
    error_items: Count | None = None
    inserted_at: Number | None = None
    updated_at: Number | None = None
    started_at: Number | None = None
    completed_at: Number | None = None
    failed_at: Number | None = None
    labels: dict[str, str]
    namings: list[MembershipDocument]
    handed_over: Number
    handed_over_wall: Number
    due: Number | None = None
    interval: Number
    healthy_interval: Number
    poll_class: PollClass
    up: bool | None = None
    last_success: Number | None = None
    last_success_wall: Number | None = None
    last_change: Number | None = None
    last_change_wall: Number | None = None
    failures: Count
    missing: Count
    missing_since: Number | None = None
    odd_polls: Count
    ended_polls: Count
    lost: bool
    from_birth: bool | None = None
    seen_unfinished: bool
    seen_started: bool
    mark_processed: Count | None = None
    mark_successes: Count | None = None
    mark_errors: Count | None = None
    final_seen: Number | None = None
    final_at: Number | None = None
    collections: dict[str, Annotated[int, Meta(gt=0)]] | None = None  # None: written before they were counted
    run: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.status is not None and self.name is None:
            raise ValueError("name: missing")


class TombstoneDocument(_OperationDocument, frozen=True, kw_only=True, tag="tombstone"):
    """An operation that was dropped: in an export. In the file, tombstones have a table of their own."""

    at: Number
    retired: bool
    counted: bool = False


class AggregateDocument(_Document, frozen=True, kw_only=True, tag="cell"):
    """What an aggregate remembers."""

    group: str
    name: str
    last_completed: Number | None = None
    last_failed: Number | None = None
    last_failed_seen: Number | None = None
    last_completed_with_errors_seen: Number | None = None

    @property
    def row_key(self) -> str:
        """What tells it from the others of its environment, in the file."""
        return dump([self.group, self.name])

    @property
    def key(self) -> AggregateKey:
        """What names it."""
        return self.environment, self.group, self.name


class EnvironmentDocument(_Document, frozen=True, kw_only=True, tag="environment"):
    """What an environment remembers."""

    base_url: str
    branch: str | None = None
    epoch: Number
    groups: tuple[str, ...]
    names: tuple[str, ...]
    asleep_since: Number | None = None


class SumsDocument(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What operations add up to; `operations` by state, without those at 0."""

    operations: dict[str, Sum] = {}
    with_errors: Sum = 0
    rows_processed: Sum = 0
    rows_estimated: Sum = 0
    errors: Sum = 0

    def __post_init__(self) -> None:
        if unknown := self.operations.keys() - {*STATES}:
            raise ValueError(f"operations: {min(unknown)} is not a status")


class RunDocument(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A run; times are Unix seconds."""

    id: str
    opened: Number
    operations: Count | None = None
    deadline: Number | None = None
    closed: Number | None = None
    finished: Number | None = None
    newest: Number = 0.0
    gone: SumsDocument = SumsDocument()


class GroupDocument(_Document, frozen=True, kw_only=True, tag="group"):
    """What a group remembers; times are Unix seconds, `past` has those of ended runs by id."""

    group: str
    last_inserted: Number | None = None
    every_since: Number | None = None
    run: RunDocument | None = None
    past: dict[str, Number] = {}

    @property
    def row_key(self) -> str:
        """What tells it from the others of its environment, in the file."""
        return self.group

    @property
    def key(self) -> GroupKey:
        """What names it."""
        return self.environment, self.group


Document = OperationDocument | TombstoneDocument | AggregateDocument | EnvironmentDocument | GroupDocument

_DECODER: json.Decoder[Document] = json.Decoder(Document)
encode = json.Encoder().encode


def decode(line: bytes) -> Document:
    """Read a document. Raises UnreadableRow."""
    try:
        return _DECODER.decode(line)
    except ValidationError as error:
        raise UnreadableRow(problem_of(error)) from None
    except (ValueError, RecursionError) as error:
        raise UnreadableRow(f"not JSON ({type(error).__name__})") from None


def problem_of(error: ValidationError) -> str:
    """Say which field is wrong, and why."""
    problem, _, where = str(error).partition(" - at `$")
    problem = _UNKNOWN.sub(r"\1: unknown field", _MISSING.sub(r"\1: missing", problem))
    field = where.strip(".`")
    return f"{field}: {problem[0].lower()}{problem[1:]}" if field else problem


def dump(value: Any) -> str:
    """Turn a value into one line of JSON; ASCII, so that no text can break a terminal."""
    return ascii_json(value, separators=(",", ":"), default=repr)


# Operations.

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
    record: list[Any] = [key.id, it.status, _shared(it.name), *_counts(it), _pairs(it.collections or {})]
    tracked = Tracked(
        key,
        _shared(it.group),
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
        _shared(it.run),
    )
    if not it.namings:
        return StoredOperation(tracked, ())
    memberships = tuple(
        [Membership(SourceKey(each.kind, each.name), each.group, _pairs(each.labels), each.run) for each in it.namings]
    )
    return StoredOperation(tracked, _shared(memberships))


def _mono(age: float | None, ages: Ages) -> float | None:
    return None if age is None else age - ages.shift


def _moment(age: float | None, wall: float | None, ages: Ages) -> Moment | None:
    return None if age is None or wall is None else Moment(age - ages.shift, wall)


def _pairs(values: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    pairs = tuple(values.items())
    return _shared(pairs) if pairs else pairs


_T = TypeVar("_T")


@lru_cache(4096)
def _shared(value: _T) -> _T:
    """Return the first one that is equal: many operations have the same names, labels and memberships."""
    return value


# Environments and aggregates.


def environment_document(name: str, it: EnvironmentMemory, ages: Ages) -> EnvironmentDocument:
    """Make a document of what an environment remembers."""
    asleep_since = None if it.asleep_since is None else ages.age(it.asleep_since)
    return EnvironmentDocument(
        environment=name,
        base_url=it.base_url,
        branch=it.branch,
        epoch=it.epoch,
        groups=it.groups,
        names=it.names,
        asleep_since=asleep_since,
    )


def read_environment(it: EnvironmentDocument, ages: Ages) -> EnvironmentMemory:
    """Make what an environment remembers of its document."""
    asleep_since = None if it.asleep_since is None else ages.mono(it.asleep_since)
    return EnvironmentMemory(it.base_url, it.branch, it.epoch, it.groups, it.names, asleep_since)


def aggregate_document(key: AggregateKey, it: StoredAggregate, _ages: Ages) -> AggregateDocument:
    """Make a document of what an aggregate remembers."""
    environment, group, name = key
    return AggregateDocument(environment=environment, group=group, name=name, **it._asdict())


def group_document(key: GroupKey, it: StoredGroup, _ages: Ages) -> GroupDocument:
    """Make a document of what a group remembers."""
    run = None
    if it.run is not None:
        by_state = {state: count for state, count in it.run.gone.by_state.items() if count}
        run = RunDocument(*it.run[:-1], SumsDocument(by_state, *it.run.gone[1:]))
    return GroupDocument(
        environment=key[0],
        group=key[1],
        last_inserted=it.last_inserted,
        every_since=it.every_since,
        run=run,
        past=dict(it.past),
    )


def read_group(it: GroupDocument) -> StoredGroup:
    """Make what a group remembers of its document."""
    if it.run is None:
        return StoredGroup(it.last_inserted, it.every_since, None, it.past)
    gone = it.run.gone
    states = tuple(gone.operations.get(state, 0) for state in STATES)
    sums = RunSums(states, gone.with_errors, gone.rows_processed, gone.rows_estimated, gone.errors)
    values = {name: getattr(it.run, name) for name in Run._fields}
    return StoredGroup(it.last_inserted, it.every_since, Run(**values | {"gone": sums}), it.past)


class Contents:
    """What is read, document by document, in times of this process."""

    def __init__(self, ages: Ages) -> None:
        self.ages = ages
        self.operations: dict[OperationKey, StoredOperation] = {}
        self.tombstones = Tombstones()
        self.aggregates: dict[AggregateKey, StoredAggregate] = {}
        self.environments: dict[str, EnvironmentMemory] = {}
        self.groups: dict[GroupKey, StoredGroup] = {}

    def take(self, document: Document) -> None:
        """Take in a document."""
        match document:
            case OperationDocument(key=key):
                self.operations[key] = read_operation(key, document, self.ages)
            case TombstoneDocument(key=key):
                self.tombstones[key] = Tombstone(self.ages.mono(document.at), document.retired, document.counted)
            case AggregateDocument(key=place):
                values = (getattr(document, name) for name in StoredAggregate._fields)
                self.aggregates[place] = StoredAggregate(*values)
            case EnvironmentDocument(environment=name):
                self.environments[name] = read_environment(document, self.ages)
            case GroupDocument(key=group):
                self.groups[group] = read_group(document)

    def has(self, document: Document) -> bool:
        """Whether there is something in its place."""
        match document:
            case AggregateDocument(key=place):
                return place in self.aggregates
            case EnvironmentDocument(environment=name):
                return name in self.environments
            case GroupDocument(key=group):
                return group in self.groups
            case OperationDocument(key=key) | TombstoneDocument(key=key):
                return key in self.operations or key in self.tombstones

    def memory(self) -> Memory:
        """Return all of it."""
        return Memory(self.operations, self.tombstones, self.aggregates, self.environments, self.groups)
