"""Threads for what takes long, so that the event loop never does it, and a bound on what waits for them."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar

from exporter.web.replies import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

WAITING_MOST = 8  # besides the one that is done

_Made = TypeVar("_Made")


class Worker:
    """One thread, and a bound on who waits for it. Lives in one event loop. `busy` is what those past it are told.

    Its thread is not waited for at the end of the process, which `os._exit` ends.
    """

    def __init__(self, name: str, busy: str) -> None:
        self._busy = busy
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._count = 0

    async def run_bounded(self, work: Callable[[], _Made]) -> _Made:
        """Return what `work` makes. Raises Refusal (503) when too many wait, and what `work` raises."""
        if self._count > WAITING_MOST:
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, self._busy, {"Retry-After": "1"}, "busy")
        self._count += 1
        # Counted until it is done, also when the one who asked has gone: the thread is busy all the same.
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        future.add_done_callback(self._done)
        return await asyncio.shield(future)

    def _done(self, future: asyncio.Future[_Made]) -> None:
        self._count -= 1
        if not future.cancelled():
            future.exception()  # looked at: the one who asked may have gone
