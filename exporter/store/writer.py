"""The thread that commits: the tracker never waits for a disk."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from exporter.store import database
from exporter.tracking.messages import Saved

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.store.store import Store
    from exporter.tracking.memory import Changes
    from exporter.tracking.transitions import Moment

IDLE_SECONDS = 1.0
TRIES, LAST_TRIES = 20, 5  # of a tenth of a second each, for a lock: while running, and at the end

log = structlog.get_logger()


class Writer:
    """Commits what `save` takes. Owns the store from `run` on, and closes it.

    What waits is committed together, and one `Saved` with the highest number tells how that went. What could not be
    written is tried again along with what comes next, so `ok` means: all up to this number is on disk. `stepped_at`
    (monotonic) is its heartbeat.
    """

    def __init__(self, store: Store, deliver: Callable[[Saved], None], clock: Callable[[], Moment]) -> None:
        self.stepped_at = clock().mono
        self._store = store
        self._deliver = deliver
        self._clock = clock
        self._lock = threading.Lock()  # of what waits: a queue would grow while a disk hangs
        self._waiting: Changes | None = None
        self._woken = threading.Event()
        self._stopping = False
        self._works = True

    def save(self, changes: Changes) -> None:
        """Have changes committed. Never blocks."""
        with self._lock:
            self._waiting = changes if self._waiting is None else merged(self._waiting, changes)
        self._woken.set()

    def stop(self) -> None:
        """Have `run` commit what waits, and end: within a second of a lock, too."""
        self._stopping = True
        self._woken.set()

    def run(self) -> None:
        """Be the writer thread until `stop`."""
        goes_on = True
        while goes_on:
            goes_on = self.step(IDLE_SECONDS)
        try:
            self._store.close()
        except sqlite3.Error as error:
            log.warning("state file could not be closed properly", error=str(error))

    def step(self, wait: float) -> bool:
        """Commit what comes within so many seconds; return whether to go on."""
        woken = self._woken.wait(wait)
        self._woken.clear()
        goes_on = not self._stopping
        self.stepped_at = self._clock().mono
        if woken:
            with self._lock:
                changes, self._waiting = self._waiting, None
            if changes is not None:
                self._commit(changes)
                self.stepped_at = self._clock().mono
        return goes_on

    def _commit(self, changes: Changes) -> None:
        try:
            self._store.commit(changes, self._patient)
        except database.FAILURES as error:
            lost = changes.whole or database.is_damage(error)
            self._log(database.describe(error, self._store.path), lost=lost)
            if not lost:
                with self._lock:
                    self._waiting = changes if self._waiting is None else merged(changes, self._waiting)
            self._deliver(Saved(changes.number, ok=False, lost=lost))
        else:
            self._log(None)
            self._deliver(Saved(changes.number, ok=True))

    def _patient(self, tried: int) -> bool:
        return tried < (LAST_TRIES if self._stopping else TRIES)

    def _log(self, problem: str | None, *, lost: bool = False) -> None:
        if problem is not None and self._works:
            damaged = "state file is damaged, a new one will be written"
            event = damaged if lost else "state cannot be written, continuing in memory"
            log.error(event, path=str(self._store.path), error=problem)
        if problem is None and not self._works:
            log.info("state is written again", path=str(self._store.path))
        self._works = problem is None


def merged(earlier: Changes, later: Changes) -> Changes:
    """Put two groups into one; the later of two changes counts."""
    if later.whole:
        return later
    return replace(
        later,
        operations={**earlier.operations, **later.operations},
        tombstones={**earlier.tombstones, **later.tombstones},
        aggregates={**earlier.aggregates, **later.aggregates},
        environments={**earlier.environments, **later.environments},
        groups={**earlier.groups, **later.groups},
        whole=earlier.whole,
    )
