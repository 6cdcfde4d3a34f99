"""What stands before every route: passwords, requests across sites, and the headers of every answer."""

from __future__ import annotations

import binascii
import math
import re
from base64 import b64decode
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers, MutableHeaders

from exporter.web.replies import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from exporter.web.context import AppContext
    from exporter.web.passwords import Passwords
    from exporter.web.web_config import WebConfig

LOG_SECONDS = 60.0
_CHALLENGE = {"WWW-Authenticate": 'Basic realm="knock-exporter", charset="UTF-8"', "Cache-Control": "no-store"}
_BASIC = re.compile(r"basic +(\S+) *", re.IGNORECASE)
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_FRAMES = "X-Frame-Options"
_POLICY = "Content-Security-Policy"
_POLICY_VALUE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors "
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    _FRAMES: "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

log = structlog.get_logger()


class AuthMiddleware:
    """Lets pass what may reach the application.

    `web_config` returns the active web configuration. `exempt` tells by method and path what needs no password.
    """

    def __init__(
        self,
        app: ASGIApp,
        app_context: AppContext,
        web_config: Callable[[], WebConfig],
        passwords: Passwords,
        exempt: Callable[[str, str], bool],
    ) -> None:
        self._app = app
        self._app_context = app_context
        self._web_config = web_config
        self._passwords = passwords
        self._exempt = exempt
        self._logged_at = -math.inf

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            raise LookupError(f"nothing but HTTP is served, no {scope['type']}")
        config = self._web_config()
        headed = _with_headers(send, config.headers)
        try:
            _check_site(scope)
            if config.users and not self._exempt(scope["method"], scope["path"]):
                await self._check_password(scope, config.users)
        except Refusal as refusal:
            if refusal.reason:
                self._app_context.refused(refusal.reason)
            await refusal.response()(scope, receive, headed)
        else:
            await self._app(scope, receive, headed)

    async def _check_password(self, scope: Scope, users: Mapping[str, bytes]) -> None:
        """Raise Refusal, unless the request shows a password that is right."""
        user, password = _credentials(scope)
        if await self._passwords.verify(users, user, password):
            return
        now = self._app_context.monotonic()
        if now - self._logged_at >= LOG_SECONDS:
            self._logged_at = now
            # Without the user: people type passwords there.
            address = scope["client"][0] if scope.get("client") else ""
            log.warning("wrong user or password (logged once a minute)", address=address)
        raise _unauthorized("wrong user or password", "password")


def _unauthorized(detail: str, reason: str) -> Refusal:
    return Refusal(HTTPStatus.UNAUTHORIZED, detail, _CHALLENGE, reason)


def _credentials(scope: Scope) -> tuple[str, bytes]:
    """Return user and password (RFC 7617), as bytes where they are not UTF-8. Raises Refusal."""
    headers = Headers(scope=scope).getlist("authorization")
    match = _BASIC.fullmatch(headers[0]) if len(headers) == 1 else None
    try:
        user, colon, password = b64decode(match[1], validate=True).partition(b":") if match else (b"", b"", b"")
    except (binascii.Error, ValueError):
        colon = b""
    if not colon:
        raise _unauthorized("expected an Authorization header with user and password (Basic …)", "no_password")
    return user.decode(errors="surrogateescape"), password


def _check_site(scope: Scope) -> None:
    """Raise Refusal for what a page of another site has a browser send (rules of Go's http.CrossOriginProtection).

    Programs send neither of the two headers, and are let pass.
    """
    if scope["method"] in _SAFE_METHODS:
        return
    headers = Headers(scope=scope)
    if sites := [site for site in headers.getlist("sec-fetch-site") if site]:
        same = all(site in {"same-origin", "none"} for site in sites)
    else:
        host = headers.get("host", "").lower()
        same = all(_host(origin) == host for origin in headers.getlist("origin") if origin)
    if not same:
        raise Refusal(HTTPStatus.FORBIDDEN, "a page of another site sent this request", reason="site")


def _host(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def _with_headers(send: Send, configured: tuple[tuple[str, str], ...]) -> Send:
    async def headed(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message.get("headers", ())))
            for name, value in _headers(configured):
                headers[name] = value
            message = {**message, "headers": headers.raw}
        await send(message)

    return headed


@lru_cache(maxsize=8)
def _headers(configured: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Return the headers of every answer. What is configured comes in place of ours; without a value, none is sent."""
    frames = dict(configured).get(_FRAMES, "")
    policy = _POLICY_VALUE + ("'self'" if frames == "sameorigin" else "'none'")
    merged = {**_HEADERS, _POLICY: policy, **dict(configured)}
    return tuple((name, value.encode().decode("latin-1")) for name, value in merged.items() if value)
