"""What was asked of the simulator, and when; never with which key."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from threading import Condition
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """A request; `at` is the monotonic time of its arrival, `status` None where no answer was begun."""

    at: float
    method: str
    path: str
    operation_id: str | None
    status: int | None


class RequestLog:
    """The last requests, in the order in which their answers were decided; a lock makes it fit for any thread."""

    def __init__(self, size: int = 100_000) -> None:
        self._entries: deque[LoggedRequest] = deque(maxlen=size)
        self._grown = Condition()

    def add(self, entry: LoggedRequest) -> None:
        """Add one, and wake those who wait for it."""
        with self._grown:
            self._entries.append(entry)
            self._grown.notify_all()

    def wait(self, count: int, timeout: float = 5.0) -> bool:
        """Wait until there are `count` requests; tell whether they came within `timeout` real seconds."""
        with self._grown:
            return self._grown.wait_for(lambda: len(self._entries) >= count, timeout)

    def clear(self) -> None:
        """Forget all."""
        with self._grown:
            self._entries.clear()

    def entries(self) -> tuple[LoggedRequest, ...]:
        """Return what is there now."""
        with self._grown:
            return tuple(self._entries)

    def __iter__(self) -> Iterator[LoggedRequest]:
        return iter(self.entries())

    def __len__(self) -> int:
        return len(self._entries)
