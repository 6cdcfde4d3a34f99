"""Keeps every second on the wire within a limit, on a machine that wakes threads late and in bunches too."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SECOND = 1.0
SHORTEST_WAIT = 0.001


class SendWindow:
    """At most `limit` requests (one, where it is less) in any second; shared by threads.

    A request is sent at some moment between the stamps before and after it. So a slot is free again one second after
    the later one: then no second that holds the next one holds it too.
    """

    def __init__(
        self,
        limit: float,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.limit = limit
        self._monotonic, self._sleep = monotonic, sleep
        self._lock = threading.Lock()
        self._under_way = 0
        self._sent: deque[float] = deque()  # when the requests of the last second had been sent

    def slot(self) -> Slot:
        """Return the slot of one request, to be held while it is sent."""
        return Slot(self)

    def enter(self) -> float:
        """Wait for a free slot and take it; return how many seconds that took."""
        began = self._monotonic()
        while wait := self._wait():
            self._sleep(wait)
        return self._monotonic() - began

    def leave(self) -> None:
        """Note that the request of a slot has been sent, or has failed to be."""
        with self._lock:
            self._under_way -= 1
            self._sent.append(self._monotonic())

    def _wait(self) -> float:
        """Take a slot and return 0, or the seconds until one may be free."""
        with self._lock:
            now = self._monotonic()
            while self._sent and self._sent[0] <= now - SECOND:
                self._sent.popleft()
            if len(self._sent) + self._under_way < max(1, int(self.limit)):
                self._under_way += 1
                return 0.0
            return max(self._sent[0] + SECOND - now, SHORTEST_WAIT) if self._sent else SHORTEST_WAIT


class Slot:
    """The slot of one request; `waited` are the seconds until it was free."""

    def __init__(self, window: SendWindow) -> None:
        self._window = window
        self.waited = 0.0

    def __enter__(self) -> None:
        self.waited = self._window.enter()

    def __exit__(self, *_: object) -> None:
        self._window.leave()
