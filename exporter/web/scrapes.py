"""Answers to scrapes.

What is compressed and what is fresh is made in two worker threads. A body is joined slice by slice as it leaves, so
that a reader that stalls holds one slice besides what all share.
"""

from __future__ import annotations

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

from starlette.responses import StreamingResponse

from exporter.metrics.compression import begin, end, join
from exporter.metrics.exposition import Format, accepts_gzip, choose_format, knock_part, knock_size, stale_part

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from starlette.requests import Request
    from starlette.responses import Response

    from exporter.metrics.compression import CompressedPart, Ending
    from exporter.metrics.exposition import View
    from exporter.web.context import AppContext

SLICE_BYTES = 64 * 1024
WORKERS = 2
TELL_SECONDS = 1.0  # between two scrapes that the tracker hears of: a flood of them is not to keep it busy
_Made = TypeVar("_Made")


class Scrapes:
    """Answers to scrapes: Knock's part is compressed once per view and format, however many ask for it."""

    def __init__(self, app_context: AppContext) -> None:
        self._app_context = app_context
        self._told_at = -math.inf
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="scrape")
        self._kept: dict[Format, tuple[View, asyncio.Future[CompressedPart]]] = {}
        self._next: dict[Format, asyncio.Task[tuple[View, Ending]]] = {}
        self._one_at_a_time: dict[Format, asyncio.Lock] = {form: asyncio.Lock() for form in Format}

    async def response(self, request: Request) -> Response:
        """Answer `GET /metrics`."""
        started = self._app_context.monotonic()
        if started - self._told_at >= TELL_SECONDS:
            self._told_at = started
            self._app_context.scraped(started)
        form = choose_format(",".join(request.headers.getlist("accept")))
        headers = {"Content-Type": form.content_type, "Vary": "Accept, Accept-Encoding"}
        view, ending = await self._newest(form)
        if accepts_gzip(",".join(request.headers.getlist("accept-encoding"))):
            headers["Content-Encoding"] = "gzip"
            kept = await self._knock_zipped(view, form)
            pieces = join(kept, ending)
            plain_size, length = kept.plain_size + len(ending.plain), sum(map(len, pieces))
            body = _joined(pieces)
        else:
            plain_size = length = knock_size(view, form) + len(ending.plain)
            body = _joined(chain(knock_part(view, form), [ending.plain]))
        self._app_context.activity.scrape_duration.observe(self._app_context.monotonic() - started)
        self._app_context.activity.exposition_size.set(plain_size)
        return StreamingResponse(body, headers=headers | {"Content-Length": str(length)})

    async def _knock_zipped(self, view: View, form: Format) -> CompressedPart:
        kept_view, kept = self._kept.get(form, (None, None))
        if kept is None or kept_view is not view or (kept.done() and (kept.cancelled() or kept.exception())):
            kept = self._in_worker(lambda: begin(knock_part(view, form)))
            # What was kept of older views goes, or a format asked for once would hold its view for ever.
            self._kept = {each: entry for each, entry in self._kept.items() if entry[0] is view} | {form: (view, kept)}
        # Shielded: a reader that goes away must not cancel it for the others that wait.
        return await asyncio.shield(kept)

    async def _newest(self, form: Format) -> tuple[View, Ending]:
        """Return the newest view and what goes with it; who asks before that is begun shares it."""
        if form not in self._next:
            self._next[form] = asyncio.create_task(self._begin(form))
        # Shielded: as above.
        return await asyncio.shield(self._next[form])

    async def _begin(self, form: Format) -> tuple[View, Ending]:
        async with self._one_at_a_time[form]:
            del self._next[form]
            return await self._in_worker(lambda: self._fresh(form))

    def _fresh(self, form: Format) -> tuple[View, Ending]:
        """Return the newest view and what goes with it; the two may be of different configurations for a moment."""
        view = self._app_context.view()
        own = form.encode(self._app_context.activity.registry)
        return view, end(stale_part(view, form, self._app_context.monotonic()) + own)

    def _in_worker(self, work: Callable[[], _Made]) -> asyncio.Future[_Made]:
        return asyncio.get_running_loop().run_in_executor(self._workers, work)


async def _joined(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    joined, size = list[bytes](), 0
    for piece in pieces:
        joined.append(piece)
        size += len(piece)
        if size >= SLICE_BYTES:
            yield b"".join(joined)
            joined, size = [], 0
            await asyncio.sleep(0)  # a reader that takes everything at once must not keep the loop from others
    yield b"".join(joined)
