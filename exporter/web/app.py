"""The application: all routes, behind the authentication."""

from __future__ import annotations

import re
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from exporter.web.api import api_routes
from exporter.web.auth_middleware import AuthMiddleware
from exporter.web.lifecycle import reload_route
from exporter.web.pages import Pages
from exporter.web.passwords import Passwords
from exporter.web.registration import GROUPS_PATH, OPERATIONS_PATH
from exporter.web.replies import Refusal
from exporter.web.scrapes import Scrapes
from exporter.web.web_config import WebConfig
from exporter.web.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from exporter.web.context import AppContext

HEALTHY, READY, RELOAD = "/-/healthy", "/-/ready", "/-/reload"
API = "api/"
_ORIGIN = re.compile(r"https?://[^/]*", re.IGNORECASE)  # at the beginning of an absolute form (RFC 9112, 3.2.2)


def make_app(
    app_context: AppContext, web_config: Callable[[], WebConfig] = WebConfig, *, health_without_password: bool = False
) -> ASGIApp:
    """Build the application: its routes, behind the authentication; `web_config` returns the active one."""
    worker = Worker("pages", "too many answers wait to be made, try again")
    pages = Pages(app_context, worker)
    routes = [
        Route(app_context.telemetry_path, Scrapes(app_context).response),
        *_health_routes(app_context),
        reload_route(RELOAD, app_context.reload),
        *api_routes(app_context, worker),
        *pages.routes(),
    ]

    def exempt(method: str, path: str) -> bool:
        asks_for_token = method in ("POST", "DELETE", "PUT") and path.startswith(
            (f"{OPERATIONS_PATH}/", f"{GROUPS_PATH}/")
        )
        return asks_for_token or (health_without_password and path in (HEALTHY, READY))

    refuse = partial(_refuse, app_context, pages)
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(PathMiddleware, app_context.prefix),
            Middleware(AuthMiddleware, app_context, web_config, Passwords(), exempt),
        ],
        exception_handlers={HTTPException: refuse, Refusal: refuse, ClientDisconnect: _disconnect},
    )
    app.router.redirect_slashes = False  # it would lead past the prefix
    return app


async def _refuse(app_context: AppContext, pages: Pages, request: Request, error: Exception) -> Response:
    """Tell a program or a person why there is no better answer."""
    of_api = f"{request.scope['path']}/".lstrip("/").startswith(API)
    if isinstance(error, HTTPException):  # a path that is not there, or not to be asked so
        status = HTTPStatus(error.status_code)
        detail = (status.description or status.phrase) + ("" if of_api else ".")
        error = Refusal(status, detail, dict(error.headers or {}))
    if not isinstance(error, Refusal):
        raise error
    if error.reason:
        app_context.refused(error.reason)
    return error.response() if of_api else pages.trouble(error)


async def _disconnect(_request: Request, _error: Exception) -> Response:
    return Response(status_code=HTTPStatus.BAD_REQUEST)  # nobody reads it


def make_health_app(app_context: AppContext) -> ASGIApp:
    """Build the application that tells health, and nothing else."""
    return Starlette(routes=_health_routes(app_context), middleware=[Middleware(PathMiddleware, "")])


def _health_routes(app_context: AppContext) -> list[Route]:
    def route(path: str, problem: Callable[[], str | None], good: str) -> Route:
        async def endpoint(_request: Request) -> Response:
            if (found := problem()) is not None:
                return PlainTextResponse(f"{found}\n", HTTPStatus.SERVICE_UNAVAILABLE)
            return PlainTextResponse(f"knock-exporter is {good}.\n")

        return Route(path, endpoint)

    return [route(HEALTHY, app_context.unhealthy, "healthy"), route(READY, app_context.unready, "ready")]


class PathMiddleware:
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
