"""The tables, and how a file of an older version becomes one of this: in a transaction for each step.

A migration stays as it was written: files of its version are out there. What each column may hold is checked by `codec`
when a row is read, so the tables hold no rules.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

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


MIGRATIONS: tuple[Migration, ...] = (_make_tables, _count_collections)  # the first makes version 1


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


def columns() -> dict[str, set[tuple[str, int]]]:
    """Return the columns of each table as they are made."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection)
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: columns_of(connection, name) for name in names}


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring a file up to date; what fails leaves it at the version before."""
    for version in range(version_of(connection), len(migrations)):
        _step(connection, migrations[version], version + 1)


def _step(connection: sqlite3.Connection, migration: Migration, version: int) -> None:
    with transaction(connection):
        migration(connection)
        connection.execute(f"PRAGMA user_version = {version}")


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
