"""The routes: metrics, health, registration, reload, and a landing page.

The event loop only waits and sends. Joining and compressing happen in two worker threads. An uncompressed body is
joined batch by batch as it leaves, so that a reader that stalls holds one batch beside the view's own lines.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from jinja2 import Environment, PackageLoader
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from exporter import __version__
from exporter.metrics.exposition import accepts_gzip, choose_format, knock_part, knock_size, stale_part
from exporter.web.lifecycle import reload_route
from exporter.web.registration import Registration

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from starlette.requests import Request

    from exporter.metrics.activity import Activity
    from exporter.metrics.exposition import Format, View
    from exporter.web.lifecycle import Reload
    from exporter.web.registration import Desk

SLICE_BYTES = 64 * 1024
BATCH_BYTES = 256 * 1024
WORKERS = 2
RETRY_SECONDS = 0.001
GZIP_LEVEL = 1  # text this repetitive shrinks to a tenth at once; higher levels cost more time than they save
_Made = TypeVar("_Made")
HEALTHY, READY, RELOAD = "/-/healthy", "/-/ready", "/-/reload"


@dataclass(frozen=True, slots=True)
class House:
    """What the pages show of the rest, and what they pass on to it; none of it blocks.

    `unhealthy` and `unready` return what is wrong, or None. `monotonic` is the clock by which staleness is judged.
    `desk` takes registrations (None: there are no such calls), `reload` has the configuration read anew (None: off).
    """

    view: Callable[[], View]
    activity: Activity
    unhealthy: Callable[[], str | None]
    unready: Callable[[], str | None]
    monotonic: Callable[[], float]
    telemetry_path: str = "/metrics"
    desk: Desk | None = None
    reload: Reload | None = None


class Zipped(NamedTuple):
    """A compressed part of an answer, in pieces, and its size before compression."""

    pieces: list[bytes]
    plain_size: int


def compress(pieces: Iterable[bytes]) -> Zipped:
    """Compress a part as a gzip member of its own: a file may be several (RFC 1952), and readers take them as one."""
    squeezer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)  # 16: with a gzip header and trailer
    squeezed, size = [], 0
    for piece in pieces:
        size += len(piece)
        squeezed.append(squeezer.compress(piece))
    return Zipped([each for each in (*squeezed, squeezer.flush()) if each], size)


class Scrapes:
    """Answers to scrapes: Knock's part is compressed once per view and format, however many ask for it."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="scrape")
        self._kept: dict[Format, tuple[View, asyncio.Future[Zipped]]] = {}

    async def answer(self, request: Request) -> Response:
        """Answer `GET /metrics`."""
        started = self._house.monotonic()
        form = choose_format(",".join(request.headers.getlist("accept")))
        headers = {"Content-Type": form.content_type, "Vary": "Accept, Accept-Encoding"}
        if accepts_gzip(",".join(request.headers.getlist("accept-encoding"))):
            headers["Content-Encoding"] = "gzip"
            view, fresh = await self._in_worker(lambda: self._fresh(form))
            parts = [await self._knock_zipped(view, form), await self._in_worker(lambda: compress([fresh]))]
            pieces = [piece for part in parts for piece in part.pieces]
            plain_size, length = sum(part.plain_size for part in parts), sum(map(len, pieces))
            body = _slices(pieces)
        else:
            view, fresh = await self._in_worker(lambda: self._fresh(form))
            plain_size = length = knock_size(view, form) + len(fresh)
            body = self._joined(view, form, fresh)
        self._house.activity.scrape_duration.observe(self._house.monotonic() - started)
        self._house.activity.exposition_size.set(plain_size)
        return StreamingResponse(body, headers=headers | {"Content-Length": str(length)})

    async def _knock_zipped(self, view: View, form: Format) -> Zipped:
        kept_view, kept = self._kept.get(form, (None, None))
        if kept is None or kept_view is not view or _failed(kept):
            kept = self._in_worker(lambda: compress(knock_part(view, form)))
            # What was kept of older views goes, or a format asked for once would hold its view for ever.
            self._kept = {each: entry for each, entry in self._kept.items() if entry[0] is view} | {form: (view, kept)}
        # Shielded: a reader that goes away must not cancel it for the others that wait.
        return await asyncio.shield(kept)

    def _fresh(self, form: Format) -> tuple[View, bytes]:
        """Return the newest view and what goes with it; the two may be of different configurations for a moment."""
        while True:
            view = self._house.view()
            own = self._house.activity.fresh.encode(view.generation, form)
            if own is not None:
                return view, stale_part(view, form, self._house.monotonic()) + own
            time.sleep(RETRY_SECONDS)

    async def _joined(self, view: View, form: Format, fresh: bytes) -> AsyncIterator[memoryview]:
        pieces = chain(knock_part(view, form), [fresh])
        while batch := await self._in_worker(lambda: _batch(pieces)):
            async for each in _slices(batch):
                yield each

    def _in_worker(self, work: Callable[[], _Made]) -> asyncio.Future[_Made]:
        return asyncio.get_running_loop().run_in_executor(self._workers, work)


def _failed(future: asyncio.Future[Zipped]) -> bool:
    return future.done() and (future.cancelled() or future.exception() is not None)


def _batch(pieces: Iterator[bytes]) -> list[bytes]:
    batch, size = [], 0
    while size < BATCH_BYTES and (piece := next(pieces, None)) is not None:
        batch.append(piece)
        size += len(piece)
    return batch


async def _slices(pieces: list[bytes]) -> AsyncIterator[memoryview]:
    for piece in pieces:
        whole = memoryview(piece)
        for start in range(0, len(whole), SLICE_BYTES):
            yield whole[start : start + SLICE_BYTES]


def make_app(house: House) -> Starlette:
    """Build the application."""
    scrapes = Scrapes(house)

    async def healthy(_request: Request) -> Response:
        return _verdict(house.unhealthy(), "healthy")

    async def ready(_request: Request) -> Response:
        return _verdict(house.unready(), "ready")

    routes = [
        Route(house.telemetry_path, scrapes.answer),
        Route(HEALTHY, healthy),
        Route(READY, ready),
        reload_route(RELOAD, house.reload),
        *(Registration(house.desk).routes() if house.desk is not None else ()),
    ]
    if house.telemetry_path != "/":
        page = _landing_page(house.telemetry_path)

        async def landing(_request: Request) -> Response:
            return HTMLResponse(page)

        routes.append(Route("/", landing))
    return Starlette(routes=routes)


def _verdict(problem: str | None, good: str) -> Response:
    if problem is None:
        return PlainTextResponse(f"knock-exporter is {good}.\n")
    return PlainTextResponse(f"{problem}\n", status_code=503)


def _landing_page(telemetry_path: str) -> str:
    templates = Environment(loader=PackageLoader("exporter.web"), autoescape=True)
    return templates.get_template("landing.html").render(version=__version__, telemetry_path=telemetry_path)
