"""One process per file: a lock that ends with its process, however that ends."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from exporter.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from exporter.tracking.record import Moment

TRY_SECONDS = 0.1


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


def held_elsewhere(path: Path, patience: Patience) -> StartError:
    """Say that another process has the file."""
    return StartError(
        f"state {path} is held by another process, for {patience.seconds:g} s now: end it, or give each its own"
        " storage.path"
    )


def hold(path: Path, patience: Patience) -> int:
    """Lock the file beside the state and return its descriptor; closing it, or the process's end, unlocks.

    The lock's file is never deleted: another process could lock the deleted one.
    """
    beside = path.with_name(f"{path.name}.lock")
    try:
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StartError(f"state {path} cannot be locked: {beside}: {error.strerror}") from None
    try:
        _lock(descriptor, path, patience)
    except OSError as error:
        os.close(descriptor)
        raise StartError(f"state {path} cannot be locked: {beside}: {error.strerror}") from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int, path: Path, patience: Patience) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if patience.ends():
                raise held_elsewhere(path, patience) from None
        else:
            return
