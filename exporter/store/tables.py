"""What is in the file: read so that a row that cannot be read costs no other, and written in one go."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from exporter.garbage_collection import no_garbage_collection
from exporter.operation import ID_BYTES, OperationKey, pack_id, unpack_id
from exporter.store import documents
from exporter.store.ages import Checkpoint
from exporter.store.conversions import KINDS, Contents
from exporter.store.documents import UnreadableRow
from exporter.tracking.tombstones import LEAF_MOST, Tombstone, Tombstones

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from exporter.store.ages import Ages
    from exporter.store.conversions import Kind
    from exporter.store.documents import Document
    from exporter.tracking.memory import Changes, Memory

    # Told of each row that cannot be read: of which environment, which one, and why.
    Skip = Callable[[str, str, str], None]

_SELECT = (  # as bytes: text that is not UTF-8 is refused
    "SELECT environment, key, CAST(ifnull(document, '') AS BLOB) FROM documents"
    " WHERE kind = ? ORDER BY environment, key"
)
_PUT = "INSERT INTO documents VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET document = excluded.document"
_DROP = "DELETE FROM documents WHERE kind = ? AND environment = ? AND key = ?"
_PUT_TOMBSTONE = "REPLACE INTO tombstones (environment, id, at, retired, counted) VALUES (?, ?, ?, ?, ?)"
_DROP_TOMBSTONE = "DELETE FROM tombstones WHERE environment = ? AND id = ?"
# By environment: to have its name decoded for each of a million rows takes a third of the time.
_TOMBSTONE_ENVIRONMENTS = "SELECT DISTINCT environment FROM tombstones ORDER BY environment"
_TOMBSTONES_OF = "SELECT id, at, retired, counted FROM tombstones WHERE environment IS ? ORDER BY id"


# Reading.


def read_checkpoint(connection: sqlite3.Connection) -> Checkpoint | None:
    """Return when the file was last true; None: nothing was written yet."""
    row = connection.execute("SELECT age, wall FROM checkpoint").fetchone()
    if row is None or not all(isinstance(each, float) and math.isfinite(each) for each in row):
        return None
    return Checkpoint(*row)


def read_documents(connection: sqlite3.Connection, kind: str, skip: Skip) -> Iterator[tuple[Any, Document]]:
    """Read all documents of a kind, with their keys."""
    place = KINDS[kind].place
    for environment, key, line in connection.execute(_SELECT, (kind,)):
        try:
            document = documents.decode(line)
            found = document.key
            if document.kind == kind and place(found) == (environment, key):
                yield found, document
            else:
                skip(str(environment), str(key), "stands at the place of another one")
        except UnreadableRow as error:
            skip(str(environment), str(key), str(error))


def read_tombstones(connection: sqlite3.Connection, ages: Ages, skip: Skip) -> Tombstones:
    """Read all tombstones."""
    stones = Tombstones()
    for (name,) in connection.execute(_TOMBSTONE_ENVIRONMENTS).fetchall():
        rows = connection.execute(_TOMBSTONES_OF, (name,))
        while batch := rows.fetchmany(LEAF_MOST):
            ids, ats, retired, counted = zip(*batch, strict=True)
            if type(name) is str and _are_tombstones(ids, ats):
                stones.append(name, ids, [at - ages.shift for at in ats], map(bool, retired), map(bool, counted))
                continue
            for packed, at, *flags in batch:
                if type(name) is str and _are_tombstones([packed], [at]):
                    stones[OperationKey(name, unpack_id(packed))] = Tombstone(ages.mono(at), *map(bool, flags))
                else:
                    skip(str(name), str(packed), "is not a tombstone")
    return stones


def _are_tombstones(ids: Sequence[Any], ats: Sequence[Any]) -> bool:
    # By columns: to look at each of a million rows takes as long as to read them.
    if {*map(type, ids)} != {bytes} or {*map(len, ids)} != {ID_BYTES}:
        return False
    return {*map(type, ats)} == {float} and all(map(math.isfinite, ats))


def read_memory(connection: sqlite3.Connection, ages: Ages, skip: Skip) -> Memory:
    """Read all that is kept."""
    contents = Contents(ages)
    with no_garbage_collection():
        for kind in KINDS:
            for key, document in read_documents(connection, kind, skip):
                contents.put(kind, key, document)
        contents.tombstones = read_tombstones(connection, ages, skip)
    return contents.memory()


# Writing.


def write_checkpoint(connection: sqlite3.Connection, at: Checkpoint) -> None:
    """Note when the file is true."""
    connection.execute("REPLACE INTO checkpoint (one, age, wall) VALUES (1, ?, ?)", at)


def write_changes(connection: sqlite3.Connection, changes: Changes, ages: Ages) -> None:
    """Write what changed; the transaction is the caller's."""
    for name, kind in KINDS.items():
        _write(connection, name, kind, getattr(changes, kind.field), ages)
    stones = changes.tombstones.items()
    puts = (
        (name, pack_id(id_), ages.age(stone.at), stone.retired, stone.counted)
        for (name, id_), stone in stones
        if stone is not None
    )
    connection.executemany(_PUT_TOMBSTONE, puts)
    connection.executemany(_DROP_TOMBSTONE, ((name, pack_id(id_)) for (name, id_), stone in stones if stone is None))


def _write(connection: sqlite3.Connection, name: str, kind: Kind, changes: Mapping[Any, Any], ages: Ages) -> None:
    puts = (
        (name, *kind.place(key), documents.encode(kind.store(key, value, ages)).decode())
        for key, value in changes.items()
        if value is not None
    )
    connection.executemany(_PUT, puts)
    connection.executemany(_DROP, ((name, *kind.place(key)) for key, value in changes.items() if value is None))
