"""The guard before the routes: passwords, requests across sites, and headers."""

from __future__ import annotations

import asyncio
import base64
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from structlog.testing import capture_logs

from exporter.metrics.exposition import View
from exporter.metrics.own import HTTP_REFUSALS, Activity
from exporter.web.auth_middleware import AuthMiddleware
from exporter.web.context import AppContext
from exporter.web.passwords import Passwords
from exporter.web.web_config import WebConfig
from exporter.web.worker import WAITING_MOST

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

USERS = {"ann": b"hash of secret", "Ärztin": b"hash of p\xc3\xa4ss:w\xf6rd"}
LOCKED = WebConfig(users=USERS)
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": POLICY,
}


class App:
    """Answers everything, and keeps what reached it."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-frame-options", b"ALLOW")]})
        await send({"type": "http.response.body", "body": b"inside"})


def basic(user: bytes, password: bytes) -> str:
    return "Basic " + base64.b64encode(user + b":" + password).decode()


ANN = basic(b"ann", b"secret")


class Guarded:
    """An application behind its guard."""

    def __init__(self, config: WebConfig = LOCKED) -> None:
        self.app = App()
        self.config = config
        self.activity, self.now = Activity(process=False), 100.0
        self.app_context = AppContext(View, self.activity, lambda: None, lambda: None, lambda: self.now)
        self.use(Passwords(lambda password, hashed: hashed == b"hash of " + password))

    def use(self, passwords: Passwords) -> None:
        self.auth_middleware = AuthMiddleware(
            self.app, self.app_context, lambda: self.config, passwords, lambda _method, path: path == "/open"
        )

    @property
    def refused(self) -> dict[str, float]:
        """What was counted, by reason."""
        read = self.activity.registry.get_sample_value
        counts = {each: read("knock_exporter_http_refused_total", {"reason": each}) for each in HTTP_REFUSALS}
        return {reason: count for reason, count in counts.items() if count}

    async def asked(self, headers: Any = None, method: str = "GET", path: str = "/") -> httpx.Response:
        transport = httpx.ASGITransport(self.auth_middleware)
        async with httpx.AsyncClient(transport=transport, base_url="http://exporter:10187") as client:
            return await client.request(method, path, headers=headers)

    def ask(self, headers: Any = None, method: str = "GET", path: str = "/") -> httpx.Response:
        return asyncio.run(self.asked(headers, method, path))


def test_what_is_refused_is_counted() -> None:
    guarded = Guarded()
    guarded.ask()  # as a browser does before it knows that a password is wanted
    guarded.ask({"Authorization": ANN})
    assert guarded.refused == {"no_password": 1}
    guarded.ask({"Authorization": basic(b"ann", b"wrong")})
    guarded.ask({"Origin": "http://elsewhere"}, "POST")
    assert guarded.refused == {"no_password": 1, "password": 1, "site": 1}


def test_wrong_passwords_are_told_once_a_minute() -> None:
    guarded = Guarded()
    with capture_logs() as lines:
        for guarded.now in (100.0, 159.0, 160.0):
            guarded.ask({"Authorization": basic(b"ann", b"wrong")})
    assert [line["address"] for line in lines] == ["127.0.0.1"] * 2
    assert guarded.refused == {"password": 3}


def test_without_users_it_is_open() -> None:
    assert Guarded(WebConfig()).ask().text == "inside"


def test_the_right_password_opens() -> None:
    for authorization in (ANN, ANN.replace("Basic ", "basic  "), basic("Ärztin".encode(), b"p\xc3\xa4ss:w\xf6rd")):
        assert Guarded().ask({"Authorization": authorization}).text == "inside"


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Basic",
        "Basic !!!",
        "Basic YW5u",
        "Basic YW5uOnNlY3JldA=",
        "Bearer 0123456789abcdef",
        ANN + " x",
        ANN.replace("Basic ", "Basic"),
        basic(b"ann", b""),
        basic(b"ann", b"secret "),
        basic(b"ANN", b"secret"),
        basic(b"eve", b"secret"),
        basic(b"", b""),
        basic(b"\xff", b"\xff\x00"),
        basic(b"ann", b"x" * 5000),
    ],
)
def test_nothing_else_does(authorization: str | None) -> None:
    guarded = Guarded()
    reply = guarded.ask({"Authorization": authorization} if authorization is not None else {})
    assert reply.status_code == 401
    assert reply.headers["WWW-Authenticate"] == 'Basic realm="knock-exporter", charset="UTF-8"'
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert reply.json()["title"] == "Unauthorized"
    assert HEADERS.items() <= dict(reply.headers).items()
    assert guarded.app.scopes == []


def test_two_credentials_are_none() -> None:
    assert Guarded().ask([("Authorization", ANN), ("Authorization", ANN)]).status_code == 401


def test_what_is_exempt_needs_none() -> None:
    assert Guarded().ask(path="/open").text == "inside"


def test_other_users_count_at_once() -> None:
    guarded = Guarded()
    assert guarded.ask({"Authorization": ANN}).status_code == 200
    guarded.config = WebConfig(users={"ann": b"hash of new"})
    assert guarded.ask({"Authorization": ANN}).status_code == 401


def test_when_too_many_passwords_wait_the_next_is_told_when_to_come_again() -> None:
    guarded, held = Guarded(), threading.Event()
    guarded.use(Passwords(lambda _password, _hashed: held.wait(20)))

    async def crowd() -> list[httpx.Response]:
        asked = [asyncio.create_task(guarded.asked({"Authorization": ANN})) for _ in range(WAITING_MOST + 2)]
        done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        held.set()
        await asyncio.gather(*asked)
        return [each.result() for each in done]

    [reply] = asyncio.run(crowd())
    assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")
    assert guarded.refused == {"busy": 1}


# Headers.


def test_every_answer_has_the_headers() -> None:
    reply = Guarded(WebConfig()).ask()
    assert HEADERS.items() <= dict(reply.headers).items()
    assert reply.headers.get_list("X-Frame-Options") == ["DENY"]


def test_what_is_configured_comes_in_place_of_ours() -> None:
    reply = Guarded(WebConfig(headers=(("Content-Security-Policy", "é"), ("X-XSS-Protection", "0")))).ask()
    assert reply.headers.get_list("Content-Security-Policy") == ["é"]
    assert reply.headers["X-XSS-Protection"] == "0"
    assert reply.headers["X-Frame-Options"] == "DENY"


def test_what_is_configured_as_blank_is_not_sent() -> None:
    assert "Content-Security-Policy" not in Guarded(WebConfig(headers=(("Content-Security-Policy", ""),))).ask().headers


def test_frames_of_the_same_origin_can_be_allowed() -> None:
    reply = Guarded(WebConfig(headers=(("X-Frame-Options", "sameorigin"),))).ask()
    assert reply.headers["X-Frame-Options"] == "sameorigin"
    assert reply.headers["Content-Security-Policy"].endswith("frame-ancestors 'self'")


# Requests across sites.


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "none", "Origin": "https://evil.example"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://exporter:10187"}, 403),
        ([("Sec-Fetch-Site", "none"), ("Sec-Fetch-Site", "cross-site")], 403),
        ({"Sec-Fetch-Site": "", "Origin": "https://evil.example"}, 403),
        ({"Origin": ""}, 200),
        ({"Origin": "http://exporter:10187"}, 200),
        ({"Origin": "https://EXPORTER:10187"}, 200),
        ({"Origin": "http://exporter"}, 403),
        ({"Origin": "http://exporter:10188"}, 403),
        ({"Origin": "http://exporter:10187.evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[evil"}, 403),
        ([("Origin", "http://exporter:10187"), ("Origin", "https://evil.example")], 403),
    ],
)
def test_no_other_site_changes_anything(headers: Any, status: int) -> None:
    guarded = Guarded(WebConfig())
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        for path in ("/", "/open"):
            reply = guarded.ask(headers, method, path)
            assert reply.status_code == status
            assert HEADERS.items() <= dict(reply.headers).items()
    for method in ("GET", "HEAD", "OPTIONS"):
        assert guarded.ask(headers, method).status_code == 200
    assert len(guarded.app.scopes) == (11 if status == 200 else 3)


def test_nothing_but_http_is_served() -> None:
    with pytest.raises(LookupError):
        asyncio.run(Guarded().auth_middleware({"type": "websocket"}, None, None))  # type: ignore[arg-type]
