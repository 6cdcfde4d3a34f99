"""The tables, and how a file of an older version becomes one of this: in a transaction for each step.

Records are JSON (`codec`). A field that is added to one needs a version of its own, even if no table changes: the
program before would not read it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    Migration = Callable[[sqlite3.Connection], None]

APPLICATION_ID = 0x4B6E6F6B  # "Knok": tells our files from those of other programs

_VERSION_1 = f"""
PRAGMA application_id = {APPLICATION_ID};
CREATE TABLE checkpoint (one INTEGER PRIMARY KEY CHECK (one = 1), age REAL NOT NULL, wall REAL NOT NULL);
CREATE TABLE environments (name TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE operations (
    environment TEXT NOT NULL, id TEXT NOT NULL, record TEXT NOT NULL,
    PRIMARY KEY (environment, id)
) WITHOUT ROWID;
CREATE TABLE tombstones ( -- a million are possible, so an id takes 16 bytes: lower(hex(id)) shows it
    environment TEXT NOT NULL, id BLOB NOT NULL, at REAL NOT NULL, retired INTEGER NOT NULL,
    PRIMARY KEY (environment, id)
) WITHOUT ROWID;
CREATE TABLE cells (
    environment TEXT NOT NULL, "group" TEXT NOT NULL, name TEXT NOT NULL, record TEXT NOT NULL,
    PRIMARY KEY (environment, "group", name)
) WITHOUT ROWID
"""


def _make_tables(connection: sqlite3.Connection) -> None:
    for statement in _VERSION_1.split(";"):
        connection.execute(statement)


MIGRATIONS: tuple[Migration, ...] = (_make_tables,)  # the first makes version 1


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


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring a file up to date; what fails leaves it at the version before."""
    for version in range(version_of(connection), len(migrations)):
        _step(connection, migrations[version], version + 1)


def _step(connection: sqlite3.Connection, migration: Migration, version: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        migration(connection)
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
