"""What stands before every route: passwords, requests across sites, and the headers of every answer."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders

from exporter.web.connections import connection_of, party
from exporter.web.passwords import Busy
from exporter.web.replies import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from exporter.web.passwords import Passwords
    from exporter.web.web_config import WebConfig

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


class AuthMiddleware:
    """Lets pass what may reach the application.

    `web_config` returns the active web configuration. `exempt` tells by method and path what needs no password,
    `refused` takes the reason and the address of what is refused.
    """

    def __init__(
        self,
        app: ASGIApp,
        web_config: Callable[[], WebConfig],
        passwords: Passwords,
        exempt: Callable[[str, str], bool],
        refused: Callable[[str, str], object],
    ) -> None:
        self._app = app
        self._web_config = web_config
        self._passwords = passwords
        self._exempt = exempt
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            raise LookupError(f"nothing but HTTP is served, no {scope['type']}")
        config = self._web_config()
        headed = _with_headers(send, config.headers)
        try:
            self._check_site(scope)
            await self._admit(scope, config)
        except Refusal as refusal:
            await refusal.response()(scope, receive, headed)
        else:
            await self._app(scope, receive, headed)

    async def _admit(self, scope: Scope, config: WebConfig) -> None:
        """Raise Refusal, unless the request may come in."""
        if not config.users or self._exempt(scope["method"], scope["path"]):
            return
        user, password = _credentials(scope)
        asking = _party(scope)
        try:
            verified = await self._passwords.verify(config.users, user, password, asking)
        except Busy:
            self._refused("busy", asking)
            busy = "too many passwords wait to be checked"
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, busy, {"Retry-After": "1"}) from None
        if not verified:
            self._refused("password", asking)
            raise _unauthorized("wrong user or password")
        connection_of(scope).trusted = True

    def _check_site(self, scope: Scope) -> None:
        """Raise Refusal for what a page of another site has a browser send."""
        if not _of_same_site(scope):
            self._refused("site", _party(scope))
            raise Refusal(HTTPStatus.FORBIDDEN, "a page of another site sent this request")


def _party(scope: Scope) -> str:
    return party(scope["client"][0]) if scope.get("client") else ""


def _unauthorized(detail: str) -> Refusal:
    return Refusal(HTTPStatus.UNAUTHORIZED, detail, _CHALLENGE)


def _credentials(scope: Scope) -> tuple[str, bytes]:
    """Return user and password (RFC 7617), as bytes where they are not UTF-8. Raises Refusal."""
    headers = Headers(scope=scope).getlist("authorization")
    match = _BASIC.fullmatch(headers[0]) if len(headers) == 1 else None
    try:
        user, colon, password = b64decode(match[1], validate=True).partition(b":") if match else (b"", b"", b"")
    except (binascii.Error, ValueError):
        colon = b""
    if not colon:
        raise _unauthorized("expected an Authorization header with user and password (Basic …)")
    return user.decode(errors="surrogateescape"), password


def _of_same_site(scope: Scope) -> bool:
    """Tell whether a request is not sent by a page of another site, by the rules of Go's http.CrossOriginProtection.

    Programs send neither of the two headers, and are let pass.
    """
    if scope["method"] in _SAFE_METHODS:
        return True
    headers = Headers(scope=scope)
    sites = [site for site in headers.getlist("sec-fetch-site") if site]
    if sites:
        return all(site in {"same-origin", "none"} for site in sites)
    host = headers.get("host", "").lower()
    return all(_host(origin) == host for origin in headers.getlist("origin") if origin)


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
