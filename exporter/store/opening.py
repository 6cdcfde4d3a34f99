"""From a path to an open store and what was kept in it: locked, sound, up to date."""

from __future__ import annotations

import os
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from exporter.errors import StartError
from exporter.store import database, tables
from exporter.store.ages import Ages, checkpoint, first_ages
from exporter.store.database import Damaged
from exporter.store.lock import Patience, held_elsewhere, hold
from exporter.store.salvage import salvage
from exporter.store.schema import transaction
from exporter.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.store.lock import StateLock
    from exporter.store.tables import Skip
    from exporter.tracking.memory import Memory
    from exporter.tracking.transitions import Moment

WAIT_SECONDS = 10.0

log = structlog.get_logger()


def open_store(
    path: Path,
    clock: Callable[[], Moment],
    *,
    wait: float = WAIT_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[Store, Memory]:
    """Open the file, made if it is missing, and read what is kept. Raises StartError.

    A file that another process has is waited for. A damaged one is put aside, and begun with what can be read of it.
    """
    return Opening(path, clock, Patience(wait, clock, sleep)).open()


@dataclass(frozen=True, slots=True)
class Opening:
    """How a file is opened.

    `ages` is the clock that a new one begins with, `mend` puts a damaged one aside, `skip` is told of unreadable rows.
    """

    path: Path
    clock: Callable[[], Moment]
    patience: Patience
    ages: Ages | None = None
    mend: bool = True
    skip: Skip | None = None

    def open(self) -> tuple[Store, Memory]:
        """Open the file and read what is kept. Raises StartError."""
        path = Path(os.path.realpath(self.path))  # two names of one file share a lock
        lock = hold(path, self.patience)
        try:
            return self._patiently(path, lock)
        except BaseException:
            lock.release()
            raise

    def _patiently(self, path: Path, lock: StateLock) -> tuple[Store, Memory]:
        mended = False
        while True:
            try:
                return self._now(path, lock)
            except Damaged as error:
                if not self.mend or mended:
                    when = (
                        "as soon as it is made" if mended else f"({error}): move it away, or start the exporter with it"
                    )
                    raise StartError(f"state {path} is damaged {when}") from None
                mended = True
            except sqlite3.Error:  # somebody has it locked
                if self.patience.ends():
                    raise held_elsewhere(path, self.patience) from None

    def _now(self, path: Path, lock: StateLock) -> tuple[Store, Memory]:
        with database.ours(path):
            made = database.make_file(path)
            database.check_kind(path)
            if not made and path.stat().st_size == 0:
                log.warning("state file is empty: starting without state", path=str(path))
            connection = database.connect(path, "rw")
        try:
            with database.ours(path):
                ages, memory = self._read(path, connection)
                return Store(path, connection, lock, ages), memory
        except BaseException as error:
            if isinstance(error, Damaged) and self.mend:
                self._mend(path, str(error))  # before SQLite closes it, and takes its log away
            connection.close()
            raise

    def _read(self, path: Path, connection: sqlite3.Connection) -> tuple[Ages, Memory]:
        database.check_identity(path, connection)
        database.check_soundness(connection)
        database.prepare(path, connection)
        database.check_tables(connection)
        ages = _go_on(connection, self.clock(), self.ages)
        return ages, tables.read_memory(connection, ages, self.skip or _log_skipped)

    def _mend(self, path: Path, problem: str) -> None:
        """Put a damaged file aside, and one with all that can be read of it in its place."""
        with database.ours(path):
            new = database.make_replacement(path, database.form_of(path))
            saved = salvage(path, new)
            kept_as = database.put_aside(path, self.clock().wall)
            new.rename(path)
        log.error(
            "state file is damaged: renamed, starting with what could be read",
            path=str(path),
            kept_as=str(kept_as),
            error=problem,
            saved=", ".join(f"{count} {table}" for table, count in saved.items()) or "nothing",
        )


def _go_on(connection: sqlite3.Connection, now: Moment, first: Ages | None) -> Ages:
    """Go on with the file's clock, or begin it.

    The write lock is taken in any case, so that who holds it, or a file that cannot be written, is met at the start.
    """
    with transaction(connection):
        kept = tables.read_checkpoint(connection)
        if kept is not None:
            return kept.ages(now)
        ages = first or first_ages(now)
        tables.write_checkpoint(connection, checkpoint(ages, now))
        return ages


def _log_skipped(environment: str, row: str, error: str) -> None:
    log.error("part of the state cannot be read: skipped", environment=environment, id=row, error=error)
