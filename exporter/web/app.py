"""The application: all routes, behind the authentication."""

from __future__ import annotations

import re
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
from exporter.tracking.transitions import Moment
from exporter.web.api import api_routes
from exporter.web.auth_middleware import AuthMiddleware
from exporter.web.bounded import Worker
from exporter.web.lifecycle import reload_route
from exporter.web.pages import not_found, page_routes
from exporter.web.passwords import Passwords
from exporter.web.refusals import Refusals
from exporter.web.registration import PATHS
from exporter.web.replies import Refusal
from exporter.web.scrapes import Scrapes
from exporter.web.web_config import WebConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.types import ASGIApp, ExceptionHandler, Receive, Scope, Send

    from exporter.metrics.exposition import View
    from exporter.metrics.own import Activity
    from exporter.web.lifecycle import Reload
    from exporter.web.registration import RegistrationService

HEALTHY, READY, RELOAD = "/-/healthy", "/-/ready", "/-/reload"
API = "api/"
_ORIGIN = re.compile(r"https?://[^/]*", re.IGNORECASE)  # at the beginning of an absolute form (RFC 9112, 3.2.2)


@dataclass(frozen=True, slots=True)
class AppContext:
    """What the pages show of the rest, and what they pass on to it; none of it blocks.

    `unhealthy` and `unready` return what is wrong, or None. `monotonic` judges staleness, `wall` tells Unix seconds.
    `config` is the active configuration, `external_url` where people reach the port (no slash at its end; None: not
    known). `service` takes registrations (None: there are no such calls), `reload` has the configuration read again
    (None: off).
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
    service: RegistrationService | None = None
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
    app_context: AppContext, web_config: Callable[[], WebConfig] = WebConfig, *, health_without_password: bool = False
) -> ASGIApp:
    """Build the application: its routes, behind the authentication; `web_config` returns the active one."""
    refused = Refusals(app_context.activity.http_refused, app_context.monotonic)
    worker = Worker(app_context.activity.http_refused.labels("busy").inc)
    routes = [
        Route(app_context.telemetry_path, Scrapes(app_context).response),
        *_health_routes(app_context),
        reload_route(RELOAD, app_context.reload),
        *api_routes(app_context, worker),
        *page_routes(app_context, worker),
    ]

    def exempt(method: str, path: str) -> bool:
        asks_for_token = method in ("POST", "DELETE") and path.startswith(f"{PATHS}/")
        return asks_for_token or (health_without_password and path in (HEALTHY, READY))

    app = Starlette(routes=routes, exception_handlers={HTTPException: _responder(app_context)})
    app.router.redirect_slashes = False  # it would lead past the prefix
    return Paths(AuthMiddleware(app, web_config, Passwords(), exempt, refused.note), app_context.prefix)


def _responder(app_context: AppContext) -> ExceptionHandler:
    """Make what tells of a path that is not there, or not to be asked so: a program or a person."""

    async def respond(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        status, headers = HTTPStatus(error.status_code), dict(error.headers or {})
        if f"{request.scope['path']}/".lstrip("/").startswith(API):
            return Refusal(status, status.description or status.phrase, headers).response()
        return not_found(app_context, status, headers)

    return respond


def make_health_app(app_context: AppContext) -> ASGIApp:
    """Build the application that tells health, and nothing else."""
    return Paths(Starlette(routes=_health_routes(app_context)), "")


def _health_routes(app_context: AppContext) -> list[Route]:
    async def healthy(_request: Request) -> Response:
        return _verdict(app_context.unhealthy(), "healthy")

    async def ready(_request: Request) -> Response:
        return _verdict(app_context.unready(), "ready")

    return [Route(HEALTHY, healthy), Route(READY, ready)]


def _verdict(problem: str | None, good: str) -> Response:
    if problem is None:
        return PlainTextResponse(f"knock-exporter is {good}.\n")
    return PlainTextResponse(f"{problem}\n", status_code=503)


class Paths:
    """Brings the paths of requests into the form that the routes know.

    It takes the prefix of the external URL away, where the proxy before it has not done so; scheme and host, which
    those send who ask through a forward proxy; and a slash at the end of the API's.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        await self._app({**scope, "path": self._path(scope["path"])}, receive, send)

    def _path(self, path: str) -> str:
        path = path[found.end() :] or "/" if (found := _ORIGIN.match(path)) else path
        if self._prefix and f"{path}/".startswith(f"{self._prefix}/"):
            path = path.removeprefix(self._prefix) or "/"
        return path.rstrip("/") if path.startswith(f"/{API}") else path
