"""`POST /-/reload`: have the configuration read again, and tell what came of it."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from exporter.errors import redact
from exporter.web.replies import reply_of

if TYPE_CHECKING:
    from starlette.requests import Request

RELOAD_SECONDS = 30.0  # until somebody who waits is told that it takes longer

# Asks for a reload without blocking; what it is given is called once, from any thread: with what is wrong with the
# new configuration (None: nothing), and whether that is a change that only a restart can make.
ReloadReply = Callable[[str | None, bool], None]
Reload = Callable[[ReloadReply], None]


def reload_route(path: str, reload: Reload | None, seconds: float = RELOAD_SECONDS) -> Route:
    """Make the route; without `reload` it is switched off."""

    async def endpoint(_request: Request) -> Response:
        if reload is None:
            return _response(HTTPStatus.FORBIDDEN, "Lifecycle API is not enabled (--web.enable-lifecycle).")
        verdict: tuple[str | None, bool] | None = await reply_of(
            lambda reply: reload(lambda problem, needs_restart: reply((problem, needs_restart))), seconds
        )
        if verdict is None:
            late = "The reload is still running. The log will have its result."
            return _response(HTTPStatus.SERVICE_UNAVAILABLE, late)
        problem, needs_restart = verdict
        if problem is None:
            return _response(HTTPStatus.OK, "The configuration was reloaded.")
        return _response(HTTPStatus.CONFLICT if needs_restart else HTTPStatus.INTERNAL_SERVER_ERROR, redact(problem))

    return Route(path, endpoint, methods=["POST", "PUT"])


def _response(status: HTTPStatus, text: str) -> Response:
    return PlainTextResponse(f"{text}\n", status)
