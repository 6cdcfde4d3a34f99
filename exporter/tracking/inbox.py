"""The way into the tracker: messages of other threads, and when they wake it."""

from __future__ import annotations

import math
import time
from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from exporter.tracking.messages import PollResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.tracking.messages import Message

SOON_SECONDS = 0.02
MESSAGES_AT_ONCE = 1000  # so that a flood of them stops neither asking nor publishing


class Inbox:
    """Messages to the tracker, from any thread.

    A response waits where the tracker wakes soon anyway: if each woke it, as each start does, a poll would take 1.06
    times the CPU.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._messages: SimpleQueue[Message | None] = SimpleQueue()  # None: a response has come
        self._responses: deque[PollResponse] = deque()
        self._wakes_at = -math.inf

    def put(self, message: Message) -> None:
        """Put a message in; never blocks."""
        if not isinstance(message, PollResponse):
            self._messages.put(message)
            return
        self._responses.append(message)
        if self._wakes_at > self._monotonic() + SOON_SECONDS:
            self._messages.put(None)

    def take(self, until: float) -> list[Message]:
        """Wait for messages, until then (monotonic) at most, and take out what has come."""
        self._wakes_at = until  # first: a response that comes after the look at them wakes this thread
        seconds = 0.0 if self._responses else max(0.0, until - self._monotonic())
        taken: list[Message] = []
        try:
            message = self._messages.get(timeout=seconds)
            while True:
                if message is not None:
                    taken.append(message)
                if len(taken) == MESSAGES_AT_ONCE:
                    break
                message = self._messages.get_nowait()
        except Empty:
            pass
        while self._responses:  # no more than requests are under way
            taken.append(self._responses.popleft())
        return taken
