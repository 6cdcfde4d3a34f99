"""The routes: metrics, health, and a landing page.

The event loop only waits and sends. Joining and compressing happen in two worker threads; a body leaves in pieces, so
that a slow reader holds little more than what the view holds anyway.
"""

from __future__ import annotations

import asyncio
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from jinja2 import Environment, PackageLoader
from prometheus_client.exposition import gzip_accepted
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from exporter import __version__
from exporter.metrics.exposition import choose_format, fresh_part, knock_part

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request

    from exporter.metrics.activity import Activity
    from exporter.metrics.exposition import Format, View

SLICE_BYTES = 64 * 1024
WORKERS = 2
GZIP_LEVEL = 1  # text this repetitive shrinks to a tenth at once; higher levels cost more time than they save
HEALTHY, READY = "/-/healthy", "/-/ready"


@dataclass(frozen=True, slots=True)
class House:
    """What the pages show of the rest: read-only looks, none of which blocks.

    `unhealthy` and `unready` return what is wrong, or None. `monotonic` is the clock by which staleness is judged.
    """

    view: Callable[[], View]
    activity: Activity
    unhealthy: Callable[[], str | None]
    unready: Callable[[], str | None]
    monotonic: Callable[[], float]
    telemetry_path: str = "/metrics"


class Part(NamedTuple):
    """A part of an answer, in the pieces in which it is sent, and its size before compression."""

    pieces: list[bytes]
    plain_size: int


def make_part(pieces: list[bytes], *, zipped: bool) -> Part:
    """Take a part as it is, or compress it: for gzip (RFC 1952) as a member of its own."""
    size = sum(map(len, pieces))
    if not zipped:
        return Part(pieces, size)
    squeezer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)  # 16: with a gzip header and trailer
    return Part([*map(squeezer.compress, pieces), squeezer.flush()], size)


class Scrapes:
    """Answers to scrapes: Knock's part is made once per view and format, however many ask at once."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="scrape")
        self._kept: dict[tuple[Format, bool], tuple[View, asyncio.Future[Part]]] = {}

    async def answer(self, request: Request) -> Response:
        """Answer `GET /metrics`."""
        started = self._house.monotonic()
        form = choose_format(request.headers.get("accept", ""))
        zipped = gzip_accepted(request.headers.get("accept-encoding", ""))
        view = self._house.view()
        parts = [await self._knock_part(view, form, zipped=zipped), await self._fresh_part(view, form, zipped=zipped)]
        self._house.activity.scrape_duration.observe(self._house.monotonic() - started)
        self._house.activity.exposition_size.set(sum(part.plain_size for part in parts))
        headers = {
            "Content-Type": form.content_type,
            "Content-Length": str(sum(len(piece) for part in parts for piece in part.pieces)),
            "Vary": "Accept, Accept-Encoding",
        }
        if zipped:
            headers["Content-Encoding"] = "gzip"
        return StreamingResponse(_slices([piece for part in parts for piece in part.pieces]), headers=headers)

    async def _knock_part(self, view: View, form: Format, *, zipped: bool) -> Part:
        kept_view, kept = self._kept.get((form, zipped), (None, None))
        if kept is None or kept_view is not view or _failed(kept):
            kept = asyncio.get_running_loop().run_in_executor(
                self._workers, lambda: make_part(knock_part(view, form), zipped=zipped)
            )
            self._kept[form, zipped] = (view, kept)
            if not zipped:
                # Large, quickly made again, and rarely asked for: shared by those who ask at once, then let go.
                kept.add_done_callback(lambda made: self._let_go(form, made))
        # Shielded: a reader that goes away must not cancel it for the others that wait.
        return await asyncio.shield(kept)

    def _let_go(self, form: Format, made: asyncio.Future[Part]) -> None:
        if self._kept.get((form, False), (None, None))[1] is made:  # else a newer view's has taken its place
            del self._kept[form, False]

    async def _fresh_part(self, view: View, form: Format, *, zipped: bool) -> Part:
        # A gzip file may be several members, and every reader takes them as one.
        house = self._house
        return await asyncio.get_running_loop().run_in_executor(
            self._workers,
            lambda: make_part([fresh_part(view, form, house.activity.registry, house.monotonic())], zipped=zipped),
        )


def _failed(future: asyncio.Future[Part]) -> bool:
    return future.done() and (future.cancelled() or future.exception() is not None)


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
