"""The application: all routes, behind the guard."""

from __future__ import annotations

import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from exporter.config import Config
from exporter.tracking.record import Moment
from exporter.web.api import api_routes
from exporter.web.guard import Guard
from exporter.web.lifecycle import reload_route
from exporter.web.pages import not_found, page_routes
from exporter.web.passwords import Passwords
from exporter.web.registration import PATHS
from exporter.web.replies import Refusal
from exporter.web.scrapes import Scrapes
from exporter.web.web_config import WebConfig
from exporter.web.work import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.types import ASGIApp, ExceptionHandler, Receive, Scope, Send

    from exporter.metrics.activity import Activity
    from exporter.metrics.exposition import View
    from exporter.web.lifecycle import Reload
    from exporter.web.registration import Desk

HEALTHY, READY, RELOAD = "/-/healthy", "/-/ready", "/-/reload"
API = "/api/"


@dataclass(frozen=True, slots=True)
class House:
    """What the pages show of the rest, and what they pass on to it; none of it blocks.

    `unhealthy` and `unready` return what is wrong, or None. `monotonic` judges staleness, `wall` tells Unix seconds.
    `config` is the configuration in force, `external_url` where people reach the port (no slash at its end; None: not
    known). `desk` takes registrations (None: there are no such calls), `reload` has the configuration read anew (None:
    off).
    """

    view: Callable[[], View]
    activity: Activity
    unhealthy: Callable[[], str | None]
    unready: Callable[[], str | None]
    monotonic: Callable[[], float]
    wall: Callable[[], float] = time.time
    config: Callable[[], Config] = lambda: Config(())
    telemetry_path: str = "/metrics"
    external_url: str | None = None
    desk: Desk | None = None
    reload: Reload | None = None

    @property
    def prefix(self) -> str:
        """What the paths of links begin with: the path of the external URL, without a slash at its end."""
        return urlsplit(self.external_url or "").path

    @property
    def now(self) -> Moment:
        """Both clocks."""
        return Moment(self.monotonic(), self.wall())


def make_app(
    house: House, lock: Callable[[], WebConfig] = WebConfig, *, health_without_password: bool = False
) -> ASGIApp:
    """Build the application: its routes, behind the guard; `lock` returns the web configuration in force."""
    worker = Worker()
    routes = [
        Route(house.telemetry_path, Scrapes(house).answer),
        *_health_routes(house),
        reload_route(RELOAD, house.reload),
        *api_routes(house, worker),
        *page_routes(house, worker),
    ]

    def exempt(method: str, path: str) -> bool:
        asks_for_token = method in ("POST", "DELETE") and path.startswith(f"{PATHS}/")
        return asks_for_token or (health_without_password and path in (HEALTHY, READY))

    app = Starlette(routes=routes, exception_handlers={HTTPException: _teller(house)})
    app.router.redirect_slashes = False  # it would lead past the prefix
    return Prefix(Guard(app, lock, Passwords(), exempt), house.prefix)


def _teller(house: House) -> ExceptionHandler:
    """Make what tells of a path that is not there, or not to be asked so: a program or a person."""

    async def told(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        status, headers = HTTPStatus(error.status_code), dict(error.headers or {})
        if request.url.path.startswith(API):
            return Refusal(status, status.description or status.phrase, headers).answer()
        return not_found(house, status, headers)

    return told


def make_health_app(house: House) -> ASGIApp:
    """Build the application that tells health, and nothing else."""
    return Starlette(routes=_health_routes(house))


def _health_routes(house: House) -> list[Route]:
    async def healthy(_request: Request) -> Response:
        return _verdict(house.unhealthy(), "healthy")

    async def ready(_request: Request) -> Response:
        return _verdict(house.unready(), "ready")

    return [Route(HEALTHY, healthy), Route(READY, ready)]


def _verdict(problem: str | None, good: str) -> Response:
    if problem is None:
        return PlainTextResponse(f"knock-exporter is {good}.\n")
    return PlainTextResponse(f"{problem}\n", status_code=503)


class Prefix:
    """Takes the prefix of the external URL from a path, where the proxy before it has not done so."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if self._prefix and f"{scope['path']}/".startswith(f"{self._prefix}/"):
            scope = {**scope, "path": scope["path"].removeprefix(self._prefix) or "/"}
        await self._app(scope, receive, send)
