"""Memory for large bodies: all that are being read share one budget, and one is decoded at a time.

A bound for each body bounds nothing when 64 of them come in at once. Nothing waits for memory in here: a body that
finds none is asked for again a little later, and is next then. A body that was large last time gets its memory before
it is asked for.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections import Counter
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, NamedTuple, Self

from exporter.knock.deadline import MAX_BODY_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

LARGE_BYTES = 256 * 1024  # smaller bodies are not counted
TOTAL_BYTES = 3 * MAX_BODY_BYTES
OWNER_BYTES = MAX_BODY_BYTES  # so an owner whose server trickles leaves room for others
PATIENCE_SECONDS = 5.0  # for which room is kept for the body that found none first
FIRST_RETRY_SECONDS, RETRY_SECONDS = 0.05, 0.25  # that body itself asks again sooner than the others
_GROWTH = 8  # a body may grow by an eighth until it is read again
_M_MMAP_THRESHOLD = -3  # of malloc.h
_SIZES_MOST = 10_000  # bodies that are asked for no more must not pile up


def give_memory_back() -> None:
    """Have the C library give large blocks back once they are free.

    glibc would keep them for the thread that had them: 16 MiB for each of 64.
    """
    with suppress(AttributeError):  # another C library, without that habit
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)


class Name(NamedTuple):
    """A body's name; its owner is an environment or a list."""

    owner: str
    body: str


class _First(NamedTuple):
    name: Name
    until: float


class MemoryBudget:
    """The budget of a process, and how large each body was last. Thread-safe."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.decoding = threading.Lock()
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()  # bytes by owner
        self._sizes: dict[Name, int] = {}  # of large bodies
        self._reserved: dict[Name, int] = {}  # not taken yet
        self._first: dict[str | None, _First] = {}  # which body found no room first: by owner, and of all

    def reserve(self, owner: str, body: str) -> float:
        """Reserve memory for a body that was large last time.

        Returns 0, or the seconds until it is worth trying again: till then the body must not be asked for.
        """
        name = Name(owner, body)
        with self._lock:
            size = self._sizes.get(name)
            if size is None or name in self._reserved:
                return 0.0
            now = self._monotonic()
            for line, fits in ((owner, self._fits_owner(owner, size)), (None, self._fits_all(size))):
                first = self._first.get(line)
                if first is not None and first.until > now and first.name != name:
                    return RETRY_SECONDS
                if not fits:
                    self._first[line] = _First(name, now + PATIENCE_SECONDS)
                    return FIRST_RETRY_SECONDS
            self._first.pop(owner, None)
            self._first.pop(None, None)
            self._held[owner] += size
            self._reserved[name] = size
            return 0.0

    def reservation(self, owner: str, body: str) -> Reservation:
        """Return what was reserved for a body, or an empty one."""
        name = Name(owner, body)
        with self._lock:
            return Reservation(self, name, self._reserved.pop(name, 0))

    def resize(self, owner: str, before: int, after: int) -> bool:
        """Let a reservation have another size; False: there is no room for that."""
        more = after - before
        with self._lock:
            if more > 0 and not (self._fits_owner(owner, more) and self._fits_all(more)):
                return False
            self._held[owner] += more
            return True

    def remember(self, name: Name, size: int) -> None:
        """Remember how large a body is."""
        with self._lock:
            self._sizes.pop(name, None)
            if size > LARGE_BYTES:
                self._sizes[name] = min(size + size // _GROWTH, MAX_BODY_BYTES)
                if len(self._sizes) > _SIZES_MOST:
                    del self._sizes[next(iter(self._sizes))]

    def _fits_owner(self, owner: str, size: int) -> bool:
        return self._held[owner] + size <= OWNER_BYTES

    def _fits_all(self, size: int) -> bool:
        return self._held.total() + size <= TOTAL_BYTES


class Reservation:
    """What one body holds of the budget, until it is closed."""

    def __init__(self, budget: MemoryBudget, name: Name, size: int) -> None:
        self._budget = budget
        self._name = name
        self._size = size
        self._needed: int | None = None  # None: no body came

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._resize(0)
        if self._needed is not None:
            self._budget.remember(self._name, self._needed)

    def declare(self, size: int) -> None:
        """Take what a body of this declared size needs. Raises MemoryError where there is no room."""
        self._needed = size
        self._resize(size if size > LARGE_BYTES else 0)

    def hold(self, size: int) -> None:
        """Grow with a body of which this much has come in. Raises MemoryError where there is no room."""
        if size <= max(self._size, LARGE_BYTES):
            self._needed = max(self._needed or 0, size)
            return
        self._needed = MAX_BODY_BYTES  # how large it will be is not known
        self._resize(min(2 * size, MAX_BODY_BYTES))
        self._needed = size

    def decoding(self) -> AbstractContextManager[object]:
        """Return what is to be held while the body is decoded."""
        return self._budget.decoding if (self._needed or 0) > LARGE_BYTES else nullcontext()

    def _resize(self, size: int) -> None:
        if size != self._size and not self._budget.resize(self._name.owner, self._size, size):
            raise MemoryError("no room for a large body")
        self._size = size
