"""The open file: changes are committed, one group at a time."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from exporter.store import database, tables
from exporter.store.ages import checkpoint
from exporter.store.database import Damaged
from exporter.store.schema import transaction
from exporter.tracking.memory import Changes

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.store.ages import Ages
    from exporter.store.lock import StateLock

    _Stat = tuple[tuple[int, int], int, int]  # which file it is, its size, when it was changed

_MOVED = "the file or its log was moved, replaced or deleted"

log = structlog.get_logger()


class Store:
    """One file, held by this process until `close`. Used by one thread at a time."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: StateLock, ages: Ages) -> None:
        self.path = path
        self._lock = lock
        self._ages = ages
        self._use(connection)

    def _use(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA busy_timeout = {database.BUSY_SECONDS * 1000:.0f}")
        self._connection = connection
        self._left = _fingerprint(self.path)

    def commit(self, changes: Changes, patient: Callable[[int], bool]) -> None:
        """Write changes in one transaction, on disk when this returns.

        Raises one of `database.FAILURES`, and LockLost where another process has the file. After a damage, only a whole
        commit helps. `patient` is asked, with how often it was tried for a tenth of a second, whether to wait on for a
        lock.
        """
        self._lock.check()
        if changes.whole:
            self._begin_file(changes)
            changes = Changes(changes.number, changes.at)
        elif _fingerprint(self.path) != self._left:
            self._check()
        self._begin(patient)
        try:
            with transaction(self._connection):
                tables.write_changes(self._connection, changes, self._ages)
                tables.write_checkpoint(self._connection, checkpoint(self._ages, changes.at))
        finally:
            now = _fingerprint(self.path)
            moved = _are_others(self._left, now)
            self._left = self._left if moved else now
        if moved:
            raise Damaged(_MOVED)

    def _check(self) -> None:
        """Look whether what others did to the file has done it harm. Raises Damaged."""
        if _are_others(self._left, _fingerprint(self.path)):
            raise Damaged(_MOVED)
        # What the log holds is not looked at by a check, but at a restart: from now on it holds nothing.
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with closing(database.connect(self.path, "rw")) as fresh:  # this one has pages in its memory
            database.check_soundness(fresh)
            database.check_tables(fresh)

    def _begin_file(self, everything: Changes) -> None:
        """Put what is at the path aside, and a new file in its place."""
        new = database.make_replacement(self.path)
        with closing(database.connect(new, "rw")) as connection, transaction(connection):
            tables.write_changes(connection, everything, self._ages)
            tables.write_checkpoint(connection, checkpoint(self._ages, everything.at))
        kept_as = database.put_aside(self.path, everything.at.wall)
        new.rename(self.path)
        log.warning(
            "state file was renamed, a new one was written from memory",
            path=str(self.path),
            kept_as=str(kept_as),
            operations=len(everything.operations),
        )
        connection = database.connect(self.path, "rw")
        database.prepare(self.path, connection)
        self._connection.close()
        self._use(connection)

    def _begin(self, patient: Callable[[int], bool]) -> None:
        tried = 0
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                tried += 1
                if not database.is_busy(error) or not patient(tried):
                    raise
            else:
                return

    def close(self) -> None:
        """Close the file; its log is written back into it unless somebody reads."""
        try:
            self._connection.close()
        finally:
            self._lock.release()


def _fingerprint(path: Path) -> list[_Stat | None]:
    """Return what tells whether the file or its log was changed."""
    return [_stat(Path(f"{path}{side}")) for side in ("", "-wal")]


def _stat(path: Path) -> _Stat | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return (found.st_dev, found.st_ino), found.st_size, found.st_ctime_ns


def _are_others(before: list[_Stat | None], now: list[_Stat | None]) -> bool:
    return [each and each[0] for each in before] != [each and each[0] for each in now]
