"""The open file: changes are committed, one group at a time."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from exporter.store import database, rows
from exporter.store.ages import checkpoint
from exporter.store.schema import transaction

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from exporter.store.ages import Ages
    from exporter.store.lock import Lock
    from exporter.tracking.memory import Changes


class Store:
    """One file, held by this process until `close`. Used by one thread at a time."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: Lock, ages: Ages) -> None:
        self.path = path
        self._connection = connection
        connection.execute(f"PRAGMA busy_timeout = {database.BUSY_SECONDS * 1000:.0f}")
        self._lock = lock
        self._ages = ages
        self._file = _identity(path)

    def commit(self, changes: Changes, patient: Callable[[int], bool]) -> None:
        """Write changes in one transaction, on disk when this returns.

        Raises sqlite3.Error or OSError, and LockLost where another process has the file.
        `patient` is asked, with how often it was tried for a tenth of a second, whether to wait on for a lock.
        """
        self._lock.check()
        if _identity(self.path) != self._file:
            raise OSError("the file was moved or deleted")  # what is written to it now, nobody would read
        self._begin(patient)
        with transaction(self._connection):
            rows.write_changes(self._connection, changes, self._ages)
            rows.write_checkpoint(self._connection, checkpoint(self._ages, changes.at))

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
        """Let go of the file; its log is written back into it unless somebody reads."""
        try:
            self._connection.close()
        finally:
            self._lock.release()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
