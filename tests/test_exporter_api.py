"""Reading the API of a running exporter from a shell: the real routes on a socket, and servers that misbehave."""

from __future__ import annotations

import json
from base64 import b64encode
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest
from chaos import answering, http, serving
from registration_service import served
from shown import LISTED, OTHER, RUNNING

from exporter.errors import StartError
from exporter.terminal.exporter_api import ApiError, Attempt, Connection, Credentials, ExporterApi, basic, bearer
from exporter.web.app import make_app

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from exporter.web.context import AppContext

PASSWORD = "correct horse"


@contextmanager
def reading(url: str, credentials: Credentials | None = None) -> Iterator[ExporterApi]:
    with closing(Connection(url, credentials, {})) as connection:
        yield ExporterApi(url, connection.send)


@pytest.fixture
def api(shown: AppContext) -> Iterator[ExporterApi]:
    with served(make_app(shown)) as (host, port), reading(f"http://{host}:{port}") as reader:
        yield reader


def test_what_it_reads(api: ExporterApi) -> None:
    assert {each["id"] for each in api.operations()} == {*LISTED, OTHER}
    assert [each["id"] for each in api.operations("staging")] == [OTHER]
    assert [each["id"] for each in api.operations("production", group="nightly")] == [RUNNING]
    assert [each["name"] for each in api.environments()] == ["production", "staging"]
    assert api.operation("production", RUNNING)["estimated_total_rows"] == 1000


def test_pages_are_asked_for_when_they_are_needed(api: ExporterApi) -> None:
    asked: list[str] = []
    with closing(Connection(api.url, None, {})) as connection:

        def send(address: str) -> Attempt:
            asked.append(address)
            return connection.send(address)

        one_by_one = ExporterApi(api.url, send).operations(limit="1")
        first = next(one_by_one)["id"]
        assert len(asked) == 1
        assert {first, *(each["id"] for each in one_by_one)} == {*LISTED, OTHER}
        assert len(asked) == len({*asked}) == 11


def test_groups() -> None:
    with (
        serving(
            answering(
                http('{"groups": [{"group": "a/b c"}]}'),
                keep=True,
            )
        ) as server,
        reading(server.url) as api,
    ):
        assert api.groups() == [{"group": "a/b c"}]
        assert api.groups("x y") == [{"group": "a/b c"}]
    assert [each.split()[1] for each in server.requests] == [b"/api/v1/groups", b"/api/v1/groups/x%20y"]
    with serving(answering(http('{"state": "done"}'))) as server, reading(server.url) as api:
        assert api.group("production", "a/b ü?")["state"] == "done"
    assert server.requests[0].split()[1] == b"/api/v1/groups/production/a/b%20%C3%BC%3F"


def test_what_the_exporter_refuses_is_told(api: ExporterApi) -> None:
    with pytest.raises(
        ApiError, match=r'HTTP 404: this exporter has no environment "nowhere" \(it has: production, staging\)$'
    ) as told:
        api.operation("nowhere", RUNNING)
    assert (told.value.attempt.status, told.value.attempt.passing) == (404, False)


@pytest.mark.parametrize("body", ["<html>", "[]", '{"groups": 5, "operations": {}, "state": 1}', "{}"])
def test_what_is_not_exporter_is_told(body: str) -> None:
    with serving(answering(http(body), keep=True)) as server, reading(server.url) as api:
        for ask in (api.groups, api.environments, lambda: list(api.operations()), lambda: api.group("a", "b")):
            with pytest.raises(ApiError) as told:
                ask()
            assert str(told.value) == f"{server.url}: the answer does not come from a knock-exporter (is --url right?)"


GO = "Client sent an HTTP request to an HTTPS server.\n"
NGINX = "<center>The plain HTTP request was sent to HTTPS port</center>"
FOREIGN = "the answer does not come from a knock-exporter"
PROBLEM = "Content-Type: application/problem+json"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (http("404 page not found\n", 404), f"HTTP 404: {FOREIGN} (is --url right?)"),
        (http('{"detail": "Not Found"}', 404), f"HTTP 404: Not Found: {FOREIGN} (is --url right?)"),
        (http('{"detail": "no such page"}', 404, PROBLEM), "HTTP 404: no such page"),
        (http("", 503), f"HTTP 503: {FOREIGN}, but from a proxy or another server"),
        (http('{"detail": "not yet"}', 503, PROBLEM), "HTTP 503: not yet"),
        (http("", 302), "HTTP 302: redirects are not followed (is --url right?)"),
        (http(GO, 400), "HTTP 400: this port speaks TLS (use https://)"),
        (http(NGINX, 400), "HTTP 400: this port speaks TLS (use https://)"),
        (
            http('{"detail": "expected a password"}', 401, PROBLEM, 'WWW-Authenticate: Basic realm="x"'),
            "HTTP 401: expected a password (--username and --password-file)",
        ),
        (
            b"\x15\x03\x01\x00\x02\x02\x46",
            "http: malformed answer (BadStatusLine) (does this port speak TLS? Use https://)",
        ),
        (b"", "closed without an answer (does this port speak TLS? Use https://)"),
    ],
)
def test_other_servers_are_told_apart(answer: bytes, problem: str) -> None:
    with serving(answering(answer)) as server, reading(server.url) as api:
        with pytest.raises(ApiError) as told:
            api.groups()
        assert str(told.value) == f"{server.url}: {problem}"


def test_a_port_without_tls_is_told() -> None:
    with (
        serving(lambda _server: lambda connection: connection.sendall(http("", 400))) as server,
        reading(server.url.replace("http:", "https:")) as api,
        pytest.raises(ApiError, match=r"wrong version number \(does this port speak plain HTTP\? Use http://\)$"),
    ):
        api.groups()


def test_no_exporter_may_pass() -> None:
    with reading("http://127.0.0.1:1") as api, pytest.raises(ApiError, match="connection refused") as told:
        api.groups()
    assert told.value.attempt.passing


def test_user_and_password_are_sent(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n")
    with serving(answering(http('{"groups": []}'))) as server, reading(server.url, basic("ann", file)) as api:
        api.groups()
    expected = b64encode(f"ann:{PASSWORD}".encode())
    assert b"Authorization: Basic " + expected + b"\r\n" in server.requests[0]


@pytest.mark.parametrize("status", [401, 403])
def test_no_secret_is_told(tmp_path: Path, token_file: Path, status: int) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    for credentials in (basic("ann", file), bearer(token_file, {})):
        header = credentials.header.reveal()
        echo = json.dumps({"detail": f"no {header} nor {PASSWORD}\x1b"})
        with serving(answering(http(echo, status))) as server, reading(server.url, credentials) as api:
            with pytest.raises(ApiError) as told:
                api.groups()
            assert told.value.attempt.status == status
        assert header.split()[1] not in str(told.value)
        assert "\x1b" not in str(told.value)
        assert (PASSWORD in str(told.value)) == header.startswith("Bearer")  # which is not told of any password


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_what_is_no_password_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    with pytest.raises(StartError, match=str(file)):
        basic("ann", file)
    with pytest.raises(StartError, match="No such file"):
        basic("ann", tmp_path / "nowhere")
