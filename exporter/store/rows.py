"""Rows of the file: read one by one, so that one that cannot be read costs no other, and written in one go."""

from __future__ import annotations

import gc
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from exporter.operation import ID_BYTES, OperationKey, is_operation_id, pack_id, unpack_id
from exporter.store import codec
from exporter.store.ages import Checkpoint
from exporter.store.layout import UnreadableRow
from exporter.tracking.memory import Memory
from exporter.tracking.tombstones import LEAF_MOST, Tombstone, Tombstones

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from exporter.store.ages import Ages
    from exporter.store.layout import Row
    from exporter.tracking.memory import AggregateKey, Changes, EnvironmentMemory, StoredAggregate, StoredOperation

    # Told of each row that cannot be read: of which environment, which one, and why.
    Skip = Callable[[str, str, str], None]

Value = TypeVar("Value")


class Table:
    """The statements of a table: put a row in or in the place of another, take one away, read all in order."""

    def __init__(self, name: str, keys: tuple[str, ...], columns: Sequence[str]) -> None:
        self.keys = keys
        key, rest = (", ".join(f'"{each}"' for each in names) for names in (keys, columns))
        updates = ", ".join(f'"{each}" = excluded."{each}"' for each in columns)
        marks = ", ".join("?" * (len(keys) + len(columns)))
        places = " AND ".join(f'"{each}" = ?' for each in keys)
        # All names are of this package: nothing of it comes from outside.
        self.put = f"INSERT INTO {name} ({key}, {rest}) VALUES ({marks}) ON CONFLICT ({key}) DO UPDATE SET {updates}"  # noqa: S608
        self.drop = f"DELETE FROM {name} WHERE {places}"  # noqa: S608
        self.select = f"SELECT {key}, {rest} FROM {name} ORDER BY {key}"  # noqa: S608


OPERATIONS = Table("operations", ("environment", "id"), codec.OPERATIONS.names)
TOMBSTONES = Table("tombstones", ("environment", "id"), ("at", "retired"))
CELLS = Table("cells", ("environment", "group", "name"), codec.CELLS.names)
ENVIRONMENTS = Table("environments", ("environment",), codec.ENVIRONMENTS.names)
# By environment: to have its name decoded for each of a million rows takes a third of the time.
_TOMBSTONE_ENVIRONMENTS = "SELECT DISTINCT environment FROM tombstones ORDER BY environment"
_TOMBSTONES_OF = "SELECT id, at, retired FROM tombstones WHERE environment IS ? ORDER BY id"


def read_checkpoint(connection: sqlite3.Connection) -> Checkpoint | None:
    """Return when the file was last true; None: nothing was written yet."""
    row = connection.execute("SELECT age, wall FROM checkpoint").fetchone()
    if row is None or not all(isinstance(each, float) and math.isfinite(each) for each in row):
        return None
    return Checkpoint(*row)


def write_checkpoint(connection: sqlite3.Connection, at: Checkpoint) -> None:
    """Note when the file is true."""
    connection.execute("REPLACE INTO checkpoint (one, age, wall) VALUES (1, ?, ?)", at)


def read_environments(
    connection: sqlite3.Connection, ages: Ages, skip: Skip
) -> Iterator[tuple[str, EnvironmentMemory]]:
    """Read what each environment remembers."""
    for name, *row in connection.execute(ENVIRONMENTS.select):
        try:
            yield _text(name), codec.read_environment(tuple(row), ages)
        except UnreadableRow as error:
            skip(str(name), "", str(error))


def read_operations(
    connection: sqlite3.Connection, ages: Ages, skip: Skip
) -> Iterator[tuple[OperationKey, StoredOperation]]:
    """Read all operations."""
    for row in connection.execute(OPERATIONS.select):
        try:
            key = OperationKey(_text(row[0]), _operation_id(row[1]))
            yield key, codec.read_operation(key, row[2:], ages)
        except UnreadableRow as error:
            skip(str(row[0]), str(row[1]), str(error))


def read_tombstones(connection: sqlite3.Connection, ages: Ages, skip: Skip) -> Tombstones:
    """Read all tombstones."""
    stones = Tombstones()
    for (name,) in connection.execute(_TOMBSTONE_ENVIRONMENTS).fetchall():
        rows = connection.execute(_TOMBSTONES_OF, (name,))
        while batch := rows.fetchmany(LEAF_MOST):
            ids, ats, retired = zip(*batch, strict=True)
            if type(name) is str and _are_tombstones(ids, ats):
                stones.append(name, ids, [at - ages.shift for at in ats], map(bool, retired))
                continue
            for packed, at, gone in batch:
                if type(name) is str and _are_tombstones([packed], [at]):
                    stones[OperationKey(name, unpack_id(packed))] = Tombstone(ages.mono(at), bool(gone))
                else:
                    skip(str(name), str(packed), "is not a tombstone")
    return stones


def _are_tombstones(ids: Sequence[Any], ats: Sequence[Any]) -> bool:
    # By columns: to look at each of a million rows takes as long as to read them.
    if {*map(type, ids)} != {bytes} or {*map(len, ids)} != {ID_BYTES}:
        return False
    return {*map(type, ats)} == {float} and all(map(math.isfinite, ats))


def read_aggregates(connection: sqlite3.Connection, skip: Skip) -> Iterator[tuple[AggregateKey, StoredAggregate]]:
    """Read what all aggregates remember."""
    for environment, group, name, *row in connection.execute(CELLS.select):
        try:
            yield (_text(environment), _text(group), _text(name)), codec.read_aggregate(tuple(row))
        except UnreadableRow as error:
            skip(str(environment), f"{group}, {name}", str(error))


def read_memory(connection: sqlite3.Connection, ages: Ages, skip: Skip) -> Memory:
    """Read all that is kept."""
    with _no_collection():
        return Memory(
            dict(read_operations(connection, ages, skip)),
            read_tombstones(connection, ages, skip),
            dict(read_aggregates(connection, skip)),
            dict(read_environments(connection, ages, skip)),
        )


@contextmanager
def _no_collection() -> Iterator[None]:
    # All that is read stays: to look through it for garbage, again and again, takes a third of the time.
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def write_changes(connection: sqlite3.Connection, changes: Changes, ages: Ages) -> None:
    """Write what changed; the transaction is the caller's."""
    _write(connection, OPERATIONS, changes.operations, lambda each: codec.operation_row(each, ages))
    _write(connection, TOMBSTONES, changes.tombstones, lambda stone: (ages.age(stone.at), stone.retired), _packed)
    _write(connection, CELLS, changes.aggregates, tuple)
    _write(connection, ENVIRONMENTS, changes.environments, lambda each: codec.environment_row(each, ages), _alone)


def _write(
    connection: sqlite3.Connection,
    table: Table,
    changes: Mapping[Any, Value | None],
    row: Callable[[Value], Row],
    place: Callable[[Any], Row] = tuple,
) -> None:
    puts = ((*place(key), *row(value)) for key, value in changes.items() if value is not None)
    connection.executemany(table.put, puts)
    connection.executemany(table.drop, (place(key) for key, value in changes.items() if value is None))


def _packed(key: OperationKey) -> Row:
    return (key.environment, pack_id(key.id))


def _alone(name: str) -> Row:
    return (name,)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise UnreadableRow("its key is not text")
    return value


def _operation_id(value: Any) -> str:
    if not isinstance(value, str) or not is_operation_id(value):
        raise UnreadableRow("its id is not a valid UUID")
    return value
