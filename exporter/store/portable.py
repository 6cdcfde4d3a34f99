"""An export: lines of JSON, the first of which says what it is and when it was true, the last that it is whole."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from exporter.errors import StartError, redact
from exporter.operation import OperationKey, is_operation_id
from exporter.store import codec, rows
from exporter.store.ages import Ages, Checkpoint
from exporter.store.layout import FLAG, NUMBER, TEXT, Layout, UnreadableRow, dump, parse
from exporter.tracking.memory import Memory
from exporter.tracking.tombstones import Tombstone, Tombstones

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection, Iterable, Iterator, MutableMapping

    from exporter.store.rows import Skip
    from exporter.tracking.memory import AggregateKey, EnvironmentMemory, StoredAggregate, StoredOperation
    from exporter.tracking.transitions import Moment

FORMAT, VERSION = "knock-exporter-state", 1
MOST_BYTES = 1 << 20  # of a line: none that was exported comes near

_AS_IN_THE_FILE = Ages(0.0)
_ENVIRONMENT = re.compile(r"[a-z0-9_-]{1,63}")
_HEADER = Layout({"format": TEXT, "version": NUMBER, "age": NUMBER, "wall": NUMBER})
_TOMBSTONE = Layout({"at": NUMBER, "retired": FLAG})


# Out.


def export(connection: sqlite3.Connection, environments: Collection[str], skip: Skip) -> Iterator[str]:
    """Write what is kept, of these environments (none: of all), as it was at the last checkpoint."""
    known = dict(rows.read_environments(connection, _AS_IN_THE_FILE, skip))
    for name in environments:
        if name not in known:
            raise StartError(f"the state has no environment {name!r}; it has: {', '.join(known) or 'none'}")
    wanted = environments or _Everything()
    at = rows.read_checkpoint(connection)
    if at is None:
        raise StartError("the state has no checkpoint: nothing tells when it was true")
    yield dump({"format": FORMAT, "version": VERSION, **at._asdict()})
    for document in _documents(connection, known, skip):
        if document["environment"] in wanted:
            yield dump(document)
    yield dump({"kind": "end"})


class _Everything:
    def __contains__(self, _name: object) -> bool:
        return True


def _documents(
    connection: sqlite3.Connection, environments: dict[str, EnvironmentMemory], skip: Skip
) -> Iterator[dict[str, Any]]:
    for name, environment in environments.items():
        row = codec.environment_row(environment, _AS_IN_THE_FILE)
        yield {"kind": "environment", "environment": name, **codec.ENVIRONMENTS.document(row)}
    for key, kept in rows.read_operations(connection, _AS_IN_THE_FILE, skip):
        row = codec.operation_row(kept, _AS_IN_THE_FILE)
        yield {"kind": "operation", **key._asdict(), **codec.OPERATIONS.document(row)}
    for key, stone in rows.read_tombstones(connection, _AS_IN_THE_FILE, skip).items():
        yield {"kind": "tombstone", **key._asdict(), **_TOMBSTONE.document(tuple(stone))}
    for place, aggregate in rows.read_aggregates(connection, skip):
        keys = zip(rows.CELLS.keys, place, strict=True)
        yield {"kind": "cell", **dict(keys), **codec.CELLS.document(aggregate)}


# In.


@dataclass(slots=True)
class Import:
    """What an export holds, in times of this process; `ages` is its clock."""

    ages: Ages
    operations: dict[OperationKey, StoredOperation] = field(default_factory=dict)
    tombstones: Tombstones = field(default_factory=Tombstones)
    aggregates: dict[AggregateKey, StoredAggregate] = field(default_factory=dict)
    environments: dict[str, EnvironmentMemory] = field(default_factory=dict)

    def memory(self) -> Memory:
        """Return what it holds as what a store holds."""
        return Memory(self.operations, self.tombstones, self.aggregates, self.environments)

    def take(self, document: dict[str, Any]) -> None:
        """Take in one line. Raises UnreadableRow."""
        kind = document.pop("kind", None)
        reader = _READERS.get(kind) if isinstance(kind, str) else None
        if reader is None:
            raise UnreadableRow(f"kind: expected one of {', '.join(_READERS)}")
        reader(self, _environment(document), document)


def read(lines: Iterable[bytes], now: Moment) -> Import:
    """Read and check an export, whole. Raises StartError, which names the first line that is wrong."""
    reader, number = _Reader(now), 0
    for number, line in enumerate(lines, 1):
        try:
            reader.take(_object(line))
        except UnreadableRow as error:
            raise StartError(redact(f"line {number}: {error}; nothing was imported")) from None
    if reader.taken is None or not reader.ended:
        raise StartError(f"line {number + 1}: the export ends too soon: was it cut off? Nothing was imported")
    return reader.taken


class _Reader:
    """Knows where in an export it is."""

    def __init__(self, now: Moment) -> None:
        self.taken: Import | None = None
        self.ended = False
        self._now = now

    def take(self, document: dict[str, Any]) -> None:
        if self.ended:
            raise UnreadableRow("stands behind the end")
        if self.taken is None:
            self.taken = _begin(document, self._now)
        elif document == {"kind": "end"}:
            self.ended = True
        else:
            self.taken.take(document)


def _object(line: bytes) -> dict[str, Any]:
    if len(line) > MOST_BYTES:
        raise UnreadableRow(f"longer than {MOST_BYTES} bytes")
    document = parse(line)
    if not isinstance(document, dict):
        raise UnreadableRow("expected an object")
    return document


def _begin(header: dict[str, Any], now: Moment) -> Import:
    if header.get("format") != FORMAT:
        raise UnreadableRow(f'expected the first line of an export, with "format": "{FORMAT}"')
    if header.get("version") != VERSION:
        raise UnreadableRow(
            f"version: this is version {header.get('version')!r} of the format, known here is {VERSION}"
        )
    _format, _version, age, wall = _HEADER.row(header)
    return Import(Checkpoint(age, wall).ages(now))


def _environment(document: dict[str, Any]) -> str:
    name = document.pop("environment", None)
    if not isinstance(name, str) or not _ENVIRONMENT.fullmatch(name):
        raise UnreadableRow("environment: expected a name of a-z, 0-9, _ and -")
    return name


def _operation_key(environment: str, document: dict[str, Any]) -> OperationKey:
    operation_id = document.pop("id", None)
    if not isinstance(operation_id, str) or not is_operation_id(operation_id):
        raise UnreadableRow("id: is not a valid UUID")
    return OperationKey(environment, operation_id.lower())


def _read_environment(into: Import, name: str, document: dict[str, Any]) -> None:
    environment = codec.read_environment(codec.ENVIRONMENTS.row(document), into.ages)
    _once(into.environments, name, environment)


def _read_operation(into: Import, name: str, document: dict[str, Any]) -> None:
    key = _operation_key(name, document)
    if key in into.tombstones:
        raise UnreadableRow(f"{key.id} has a tombstone already")
    _once(into.operations, key, codec.read_operation(key, codec.OPERATIONS.row(document), into.ages))


def _read_tombstone(into: Import, name: str, document: dict[str, Any]) -> None:
    key = _operation_key(name, document)
    if key in into.operations:
        raise UnreadableRow(f"{key.id} is an operation already")
    at, retired = _TOMBSTONE.row(document)
    _once(into.tombstones, key, Tombstone(into.ages.mono(at), bool(retired)))


def _read_aggregate(into: Import, name: str, document: dict[str, Any]) -> None:
    group, operation_name = document.pop("group", None), document.pop("name", None)
    if not isinstance(group, str) or not isinstance(operation_name, str):
        raise UnreadableRow("group, name: expected texts")
    _once(into.aggregates, (name, group, operation_name), codec.read_aggregate(codec.CELLS.row(document)))


_READERS: dict[str, Callable[[Import, str, dict[str, Any]], None]] = {
    "environment": _read_environment,
    "operation": _read_operation,
    "tombstone": _read_tombstone,
    "cell": _read_aggregate,
}


def _once(into: MutableMapping[Any, Any], key: Any, value: Any) -> None:
    if key in into:
        raise UnreadableRow(f"{key if isinstance(key, str) else ' '.join(key)} is a duplicate")
    into[key] = value
