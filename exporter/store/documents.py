"""What is stored, as JSON: a document for each environment, group, operation and aggregate, as in an export.

The names are the file's own: what the tracker renames keeps its name here. Where a time is monotonic it is stored as an
age. A later field needs a default, so that documents without it can be read.
"""
# Without `from __future__ import annotations`: msgspec reads these.

import re
from functools import lru_cache
from json import dumps as ascii_json
from typing import Annotated, Any, TypeVar

from msgspec import Meta, Struct, ValidationError, json

from exporter.operation import MAX_COUNT, OperationKey, Status, is_operation_id
from exporter.tracking.memberships import SourceKind
from exporter.tracking.memory import AggregateKey
from exporter.tracking.pacing import PollClass
from exporter.tracking.runs import GroupKey
from exporter.tracking.transitions import STATES
from exporter.values import NAME

Number = Annotated[float, Meta(ge=-MAX_COUNT, le=MAX_COUNT)]  # what is beyond is not a time
Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
Sum = Annotated[int, Meta(ge=0)]

_is_environment = re.compile(NAME).fullmatch
_MISSING = re.compile("Object missing required field `(.*)`")
_UNKNOWN = re.compile("Object contains unknown field `(.*)`")

_T = TypeVar("_T")


class UnreadableRow(ValueError):
    """What cannot be what this program wrote; says which field and why."""


@lru_cache(4096)
def shared(value: _T) -> _T:
    """Return the first one that is equal: many operations have the same names, labels and memberships."""
    return value


# What is None is left out.


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
    def key(self) -> Any:
        """What the tracker knows it by."""
        return self.environment


class _OperationDocument(_Document, frozen=True, kw_only=True):
    id: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_operation_id(self.id):
            raise ValueError("id: is not a valid UUID")

    @property
    def key(self) -> OperationKey:
        """What the tracker knows it by."""
        return OperationKey(shared(self.environment), self.id.lower())


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
    def key(self) -> AggregateKey:
        """What the tracker knows it by."""
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
    def key(self) -> GroupKey:
        """What the tracker knows it by."""
        return self.environment, self.group


Document = OperationDocument | TombstoneDocument | AggregateDocument | EnvironmentDocument | GroupDocument

_DECODER: json.Decoder[Document] = json.Decoder(Document)
encode = json.Encoder().encode


def decode(line: bytes) -> Document:
    """Read a document. Raises UnreadableRow."""
    return decode_by(_DECODER, line)


def decode_by(decoder: json.Decoder[_T], line: bytes) -> _T:
    """Read a line of JSON. Raises UnreadableRow."""
    try:
        return decoder.decode(line)
    except ValidationError as error:
        raise UnreadableRow(_problem_of(error)) from None
    except (ValueError, RecursionError) as error:
        raise UnreadableRow(f"not JSON ({type(error).__name__})") from None


def _problem_of(error: ValidationError) -> str:
    """Say which field is wrong, and why."""
    problem, _, where = str(error).partition(" - at `$")
    problem = _UNKNOWN.sub(r"\1: unknown field", _MISSING.sub(r"\1: missing", problem))
    problem = f"{problem[0].lower()}{problem[1:]}"
    field = where.strip(".`")
    return f"{field}: {problem}" if field else problem


def dump(value: Any) -> str:
    """Turn a value into one line of JSON; ASCII, so that no text can break a terminal."""
    return ascii_json(value, separators=(",", ":"), default=repr)
