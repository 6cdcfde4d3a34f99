"""The fetch pool of one environment: threads that do one request each and tell the outcome."""

from __future__ import annotations

import threading
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING

import structlog

from exporter.errors import BadResponse, KnockError
from exporter.tracking.messages import PollRequest, PollResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.operation import Operation
    from exporter.send_window import SendWindow

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
        fetch: Callable[[str, SendWindow], Operation],
        deliver: Callable[[PollResponse], None],
    ) -> None:
        self._name = name
        self._most = most
        self._fetch = fetch
        self._deliver = deliver
        self._requests: SimpleQueue[PollRequest | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads = 0

    def submit(self, request: PollRequest) -> None:
        """Send a request as soon as a thread is free; called by one thread only."""
        self._requests.put(request)
        if not self._idle.acquire(blocking=False) and self._threads < self._most:
            self._start_thread()

    def close(self) -> None:
        """End the threads once what was submitted is done; nothing may be submitted afterwards."""
        for _ in range(self._threads):
            self._requests.put(None)

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
        while True:
            try:
                request = self._requests.get_nowait()
            except Empty:
                self._idle.release()
                request = self._requests.get()
            if request is None:
                return
            started = monotonic()
            outcome = self._outcome(request)
            self._deliver(PollResponse(request, outcome, monotonic() - started))

    def _outcome(self, request: PollRequest) -> Operation | KnockError:
        try:
            return self._fetch(request.id, request.window)
        except KnockError as error:
            # Tracebacks would keep the frames of the request alive, headers included.
            error.__cause__ = error.__context__ = None
            return error.with_traceback(None)
        except Exception:
            # A lost answer would leave its operation in flight for ever.
            log.exception("unexpected error in a fetch", environment=self._name)
            return BadResponse("exporter", "unexpected error, see the log")
