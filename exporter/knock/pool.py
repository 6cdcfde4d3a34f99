"""The fetch pool of one environment: threads that do one request each and tell the outcome."""

from __future__ import annotations

import threading
from collections import deque
from queue import SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING

import structlog

from exporter.errors import BadResponse, KnockError
from exporter.tracking.messages import PollRequest, PollResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.operation import Operation
    from exporter.send_window import Slot

log = structlog.get_logger()


class FetchPool:
    """At most `most` requests at a time, by as many threads as were ever needed at once.

    The threads are daemons: a fetch that hangs must not keep the process from ending, as the executors of
    concurrent.futures would.
    """

    def __init__(
        self,
        name: str,
        most: int,
        fetch: Callable[[str, Slot], Operation],
        deliver: Callable[[PollResponse], None],
    ) -> None:
        self._name = name
        self._most = most
        self._fetch = fetch
        self._deliver = deliver
        self._lock = threading.Lock()
        self._requests: deque[PollRequest] = deque()  # for which no thread is free
        self._idle: list[SimpleQueue[PollRequest | None]] = []  # of each idle thread, what it is to do next
        self._threads = 0
        self._closed = False

    def submit(self, request: PollRequest) -> None:
        """Send a request as soon as a thread is free; called by one thread only."""
        with self._lock:
            if self._idle:
                # The one that worked last: where all 64 take turns, a poll takes 1.08 times the CPU.
                self._idle.pop().put(request)
                return
            self._requests.append(request)
        if self._threads < self._most:
            self._start_thread()

    def close(self) -> None:
        """End the threads once what was submitted is done; nothing may be submitted afterwards."""
        with self._lock:
            self._closed = True
            for each in self._idle:
                each.put(None)

    def _start_thread(self) -> None:
        name = f"fetch-{self._name}-{self._threads + 1}"
        try:
            threading.Thread(target=self._work, name=name, daemon=True).start()
        except RuntimeError:  # the machine allows no more threads: those that are there take the request in time
            if not self._threads:
                raise
            return
        self._threads += 1

    def _work(self) -> None:
        inbox: SimpleQueue[PollRequest | None] = SimpleQueue()
        while (request := self._next(inbox)) is not None:
            started, slot = monotonic(), request.window.slot()
            outcome = self._outcome(request.id, slot)
            self._deliver(PollResponse(request, outcome, monotonic() - started - slot.waited))

    def _next(self, inbox: SimpleQueue[PollRequest | None]) -> PollRequest | None:
        """Wait for a request; None: there are no more."""
        with self._lock:
            if self._requests:
                return self._requests.popleft()
            if self._closed:
                return None
            self._idle.append(inbox)
        return inbox.get()

    def _outcome(self, operation_id: str, slot: Slot) -> Operation | KnockError:
        try:
            return self._fetch(operation_id, slot)
        except KnockError as error:
            # Tracebacks would keep the frames of the request alive, headers included.
            error.__cause__ = error.__context__ = None
            return error.with_traceback(None)
        except Exception:
            # A lost answer would leave its operation in flight for ever.
            log.exception("unexpected error in a fetch", environment=self._name)
            return BadResponse("exporter", "unexpected error, see the log")
