"""One process per file: a lock that ends with its process, however that ends."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

import structlog

from exporter.errors import ExporterError, StartError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from exporter.tracking.transitions import Moment

TRY_SECONDS = 0.1

log = structlog.get_logger()


class Patience:
    """So many seconds to try again in, from the first failure on."""

    def __init__(self, seconds: float, clock: Callable[[], Moment], sleep: Callable[[float], None]) -> None:
        self.seconds = seconds
        self._clock = clock
        self._sleep = sleep
        self._until: float | None = None

    def ends(self) -> bool:
        """Whether the time is over; sleeps for a moment if it is not."""
        now = self._clock().mono
        if self._until is None:
            self._until = now + self.seconds
        if now >= self._until:
            return True
        self._sleep(TRY_SECONDS)
        return False


class LockLost(ExporterError):
    """Another process has the state by now: this one must end."""


def held_elsewhere(path: Path, patience: Patience) -> StartError:
    """Say that another process has the file."""
    return StartError(
        f"state {path} is held by another process, for {patience.seconds:g} s now: end it, or give each its own"
        " storage.path"
    )


class StateLock:
    """The lock of a state, which is the file next to it: nobody else has both. The process's end releases it too."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def check(self) -> None:
        """Take it again if its file was removed or replaced. Raises LockLost, or OSError where it cannot be made."""
        if _is_at(_lock_path(self._path), self._descriptor):
            return
        descriptor = _try(self._path)
        if descriptor is None:
            raise LockLost(f"state {self._path} is held by another process: the file of the lock was removed")
        self.release()
        self._descriptor = descriptor
        log.warning(
            "lock file of the state was removed by another program, locked again", path=str(_lock_path(self._path))
        )

    def release(self) -> None:
        """Let others have it."""
        os.close(self._descriptor)


def hold(path: Path, patience: Patience) -> StateLock:
    """Lock the file next to the state. Raises StartError.

    The lock's file is never deleted: another process could lock the deleted one.
    """
    waits = False
    while True:
        try:
            descriptor = _try(path)
        except FileNotFoundError:
            raise StartError(f"state {path}: there is no directory {path.parent} (create it)") from None
        except OSError as error:
            raise StartError(f"state {path} cannot be locked: {_lock_path(path)}: {error.strerror}") from None
        if descriptor is not None:
            return StateLock(path, descriptor)
        if not waits:
            waits = True
            log.warning("another process has the state file: waiting", path=str(path), seconds=patience.seconds)
        if patience.ends():
            raise held_elsewhere(path, patience)


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _try(path: Path) -> int | None:
    """Return the locked file; None where another process has it, or it was replaced meanwhile."""
    lock_path = _lock_path(path)
    descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(lock_path, descriptor):
            return descriptor
    except BlockingIOError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
