"""The tables, and how a file of an older version becomes one of this: in a transaction for each step.

A migration stays as it was written: files of its version are out there. What a document may hold is checked by
`documents` when it is read, so the tables hold no rules.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from exporter.store.documents import AggregateDocument, EnvironmentDocument, OperationDocument, dump

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from msgspec import Struct

    Migration = Callable[[sqlite3.Connection], None]

APPLICATION_ID = 0x4B6E6F6B  # "Knok": tells our files from those of other programs

_VERSION_1 = f"""
PRAGMA application_id = {APPLICATION_ID};
CREATE TABLE checkpoint (one INTEGER PRIMARY KEY CHECK (one = 1), age REAL NOT NULL, wall REAL NOT NULL);
CREATE TABLE environments (
    environment TEXT PRIMARY KEY, base_url TEXT, branch TEXT, epoch REAL, groups TEXT, names TEXT, asleep_since REAL
);
CREATE TABLE operations (
    environment TEXT, id TEXT, "group" TEXT, status TEXT, name TEXT, rows_processed INTEGER, rows_estimated INTEGER,
    successes INTEGER, errors INTEGER, error_items INTEGER, inserted_at REAL, updated_at REAL, started_at REAL,
    completed_at REAL, failed_at REAL, labels TEXT, namings TEXT, handed_over REAL, handed_over_wall REAL, due REAL,
    interval REAL, healthy_interval REAL, poll_class TEXT, up INTEGER, last_success REAL, last_success_wall REAL,
    last_change REAL, last_change_wall REAL, failures INTEGER, missing INTEGER, missing_since REAL, odd_polls INTEGER,
    ended_polls INTEGER, lost INTEGER, from_birth INTEGER, seen_unfinished INTEGER, seen_started INTEGER,
    mark_processed INTEGER, mark_successes INTEGER, mark_errors INTEGER, final_seen REAL, final_at REAL,
    PRIMARY KEY (environment, id)
);
CREATE TABLE tombstones ( -- a million are possible, so an id takes 16 bytes: lower(hex(id)) shows it
    environment TEXT, id BLOB, at REAL, retired INTEGER, PRIMARY KEY (environment, id)
) WITHOUT ROWID;
CREATE TABLE cells (
    environment TEXT, "group" TEXT, name TEXT, last_completed REAL, last_failed REAL, last_failed_seen REAL,
    last_completed_with_errors_seen REAL, PRIMARY KEY (environment, "group", name)
)
"""


def _make_tables(connection: sqlite3.Connection) -> None:
    for statement in _VERSION_1.split(";"):
        connection.execute(statement)


def _count_collections(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE operations ADD COLUMN collections TEXT DEFAULT '{}'")


def _keep_documents(connection: sqlite3.Connection) -> None:
    """Make a document of each row; one that cannot be read stays one that cannot be read."""
    connection.execute(
        "CREATE TABLE documents"
        " (kind TEXT, environment TEXT, key TEXT, document TEXT, PRIMARY KEY (kind, environment, key))"
    )
    for table, model in _MODELS.items():
        kind = model.__struct_config__.tag
        found = connection.execute(f"SELECT * FROM {table}")  # noqa: S608 - of ours
        names = [each[0] for each in found.description]
        rows = (_document_row(str(kind), dict(zip(names, row, strict=True))) for row in found)
        connection.executemany("INSERT OR IGNORE INTO documents VALUES (?, ?, ?, ?)", rows)
        connection.execute(f"DROP TABLE {table}")
    _show_documents(connection)


def _show_documents(connection: sqlite3.Connection) -> None:
    """Make the views that show the fields of documents as columns: briefly, as all statements are to fit in a page."""
    for table, model in _MODELS.items():
        columns = (_COLUMNS.get(name, f"json_extract(document,'$.{name}')") for name in model.__struct_fields__)
        shown = ",".join(f'{each}"{name}"' for name, each in zip(model.__struct_fields__, columns, strict=True))
        kind = model.__struct_config__.tag
        connection.execute(f"DROP VIEW IF EXISTS {table}")
        connection.execute(f"CREATE VIEW {table} AS SELECT {shown} FROM documents WHERE kind = '{kind}'")  # noqa: S608


def _keep_groups(connection: sqlite3.Connection) -> None:
    """Keep groups, and the run of each operation."""
    connection.execute("ALTER TABLE tombstones ADD COLUMN counted INTEGER DEFAULT 0")
    _show_documents(connection)


_MODELS: Mapping[str, type[Struct]] = {
    "environments": EnvironmentDocument,
    "operations": OperationDocument,
    "cells": AggregateDocument,
}
_COLUMNS = {"environment": "environment", "id": "key"}
_NESTED = {"labels", "namings", "collections", "groups", "names"}
_FLAGS = {"up", "lost", "from_birth", "seen_unfinished", "seen_started"}


def _document_row(kind: str, columns: dict[str, Any]) -> tuple[str, ...]:
    document: dict[str, Any] = {"kind": kind}
    for name, value in columns.items():
        if value in (0, 1) and name in _FLAGS:
            document[name] = bool(value)
        elif value is not None:
            document[name] = value
        if name in _NESTED:
            with suppress(ValueError, TypeError, RecursionError):
                document[name] = json.loads(value)
    key = dump([columns["group"], columns["name"]]) if kind == "cell" else str(columns.get("id", ""))
    return kind, str(columns["environment"]), key, dump(document)


# The first makes version 1. The views show the fields of a document: another field takes a step that makes them again.
MIGRATIONS: tuple[Migration, ...] = (_make_tables, _count_collections, _keep_documents, _keep_groups)


def version_of(connection: sqlite3.Connection) -> int:
    """Return the version of an open file; 0: nothing is in it yet."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def is_ours(connection: sqlite3.Connection) -> bool:
    """Whether a file was made by this program, or holds nothing at all."""
    identity: int = connection.execute("PRAGMA application_id").fetchone()[0]
    if identity == APPLICATION_ID:
        return True
    tables: int = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    return identity == 0 and tables == 0 and version_of(connection) == 0


def columns_of(connection: sqlite3.Connection, table: str) -> set[tuple[str, int]]:
    """Return the columns of a table: the name of each, and its place in the key (0: none)."""
    return {(name, place) for name, place in connection.execute("SELECT name, pk FROM pragma_table_info(?)", (table,))}


def columns(version: int | None = None) -> dict[str, set[tuple[str, int]]]:
    """Return the columns of each table as they are made."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection, MIGRATIONS[:version])
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: columns_of(connection, name) for name in names}


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring a file up to date; what fails leaves it at the version before."""
    before = version_of(connection)
    for version in range(before, len(migrations)):
        with transaction(connection):
            migrations[version](connection)
            connection.execute(f"PRAGMA user_version = {version + 1}")
    if before < len(migrations):
        # So that each table begins at the same page in all files: without its first page, a file does not tell where.
        connection.execute("PRAGMA temp_store = MEMORY")  # a container may have no folder for it
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # what the file says of its form, it says by itself


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Write all of it or nothing: begun with the write lock, which may be had already."""
    if not connection.in_transaction:
        connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:  # a full disk makes SQLite roll back by itself
            connection.execute("ROLLBACK")
