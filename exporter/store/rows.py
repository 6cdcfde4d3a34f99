"""Rows of the file: read one by one, so that one that cannot be read costs no other; and written in one go."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

from exporter.operation import OperationKey, is_operation_id
from exporter.store import codec, forms
from exporter.store.ages import Checkpoint
from exporter.store.forms import Unreadable
from exporter.tracking.memory import Memory, Tombstone

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Mapping

    from exporter.store.ages import Ages
    from exporter.tracking.memory import CellMemory, CellPlace, Changes, EnvironmentMemory, Kept

    # Told of each row that cannot be read: of which environment, which one, and why.
    Skip = Callable[[str, str, str], None]

Value = TypeVar("Value")

ID_BYTES = 16
STATEMENTS = {  # by table: how a row is put in, and how it is taken away
    "operations": (
        "REPLACE INTO operations (environment, id, record) VALUES (?, ?, ?)",
        "DELETE FROM operations WHERE environment = ? AND id = ?",
    ),
    "tombstones": (
        "REPLACE INTO tombstones (environment, id, at, retired) VALUES (?, ?, ?, ?)",
        "DELETE FROM tombstones WHERE environment = ? AND id = ?",
    ),
    "cells": (
        'REPLACE INTO cells (environment, "group", name, record) VALUES (?, ?, ?, ?)',
        'DELETE FROM cells WHERE environment = ? AND "group" = ? AND name = ?',
    ),
    "environments": (
        "REPLACE INTO environments (name, record) VALUES (?, ?)",
        "DELETE FROM environments WHERE name = ?",
    ),
}


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
    for name, record in connection.execute("SELECT name, record FROM environments ORDER BY name"):
        try:
            yield name, codec.read_environment(forms.parse(record), ages)
        except Unreadable as error:
            skip(str(name), "", str(error))


def read_operations(connection: sqlite3.Connection, ages: Ages, skip: Skip) -> Iterator[tuple[OperationKey, Kept]]:
    """Read all operations."""
    query = "SELECT environment, id, record FROM operations ORDER BY environment, id"
    for environment, operation_id, record in connection.execute(query):
        try:
            key = OperationKey(environment, _checked_id(operation_id))
            yield key, codec.read_kept(key, forms.parse(record), ages)
        except Unreadable as error:
            skip(str(environment), str(operation_id), str(error))


def read_tombstones(connection: sqlite3.Connection, ages: Ages, skip: Skip) -> Iterator[tuple[OperationKey, Tombstone]]:
    """Read all tombstones, the oldest first."""
    names: dict[str, str] = {}  # a million rows share a few names
    query = "SELECT environment, id, at, retired FROM tombstones ORDER BY at, environment, id"
    for environment, id_bytes, at, retired in connection.execute(query):
        if not isinstance(id_bytes, bytes) or len(id_bytes) != ID_BYTES or not isinstance(at, float):
            skip(str(environment), str(id_bytes), "no tombstone")
            continue
        key = OperationKey(names.setdefault(environment, environment), unpack_id(id_bytes))
        yield key, Tombstone(ages.mono(at), bool(retired))


def read_cells(connection: sqlite3.Connection, ages: Ages, skip: Skip) -> Iterator[tuple[CellPlace, CellMemory]]:
    """Read what all aggregates remember."""
    query = 'SELECT environment, "group", name, record FROM cells ORDER BY environment, "group", name'
    for environment, group, name, record in connection.execute(query):
        try:
            yield (environment, group, name), codec.read_cell(forms.parse(record), ages)
        except Unreadable as error:
            skip(str(environment), f"{group}, {name}", str(error))


def read_memory(connection: sqlite3.Connection, ages: Ages, skip: Skip) -> Memory:
    """Read all that is kept."""
    return Memory(
        dict(read_operations(connection, ages, skip)),
        dict(read_tombstones(connection, ages, skip)),
        dict(read_cells(connection, ages, skip)),
        dict(read_environments(connection, ages, skip)),
    )


def write_changes(connection: sqlite3.Connection, changes: Changes, ages: Ages) -> None:
    """Write what changed; the transaction is the caller's."""
    stones = {(key.environment, pack_id(key.id)): stone for key, stone in changes.tombstones.items()}
    environments = {(name,): each for name, each in changes.environments.items()}
    _write(connection, "operations", changes.operations, lambda each: _json(codec.write_kept(each, ages)))
    _write(connection, "tombstones", stones, lambda stone: (ages.age(stone.at), stone.retired))
    _write(connection, "cells", changes.cells, lambda each: _json(codec.write_cell(each, ages)))
    _write(connection, "environments", environments, lambda each: _json(codec.write_environment(each, ages)))


def _json(document: dict[str, Any]) -> tuple[str]:
    return (forms.dump(document),)


def _write(
    connection: sqlite3.Connection,
    table: str,
    changes: Mapping[Any, Value | None],
    columns: Callable[[Value], tuple[Any, ...]],
) -> None:
    put, drop = STATEMENTS[table]
    connection.executemany(put, [(*key, *columns(value)) for key, value in changes.items() if value is not None])
    connection.executemany(drop, [key for key, value in changes.items() if value is None])


def pack_id(operation_id: str) -> bytes:
    """Turn a UUID into its 16 bytes."""
    return bytes.fromhex(operation_id.replace("-", ""))


def unpack_id(packed: bytes) -> str:
    """Turn 16 bytes into a UUID as Knock writes it."""
    text = packed.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _checked_id(value: Any) -> str:
    if not isinstance(value, str) or not is_operation_id(value):
        raise Unreadable("id: no UUID")
    return value
