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
    with pytest.raises(ApiError, match=r'HTTP 404: this process does not watch "nowhere"$') as told:
        api.operation("nowhere", RUNNING)
    assert (told.value.attempt.status, told.value.attempt.passing) == (404, False)


@pytest.mark.parametrize("body", ["<html>", "[]", '{"groups": 5, "operations": {}, "state": 1}', "{}"])
def test_what_is_not_exporter_is_told(body: str) -> None:
    with serving(answering(http(body), keep=True)) as server, reading(server.url) as api:
        for ask in (api.groups, api.environments, lambda: list(api.operations()), lambda: api.group("a", "b")):
            with pytest.raises(ApiError) as told:
                ask()
            assert str(told.value) == f"{server.url}: the answer is none of knock-exporter (wrong --url?)"


@pytest.mark.parametrize(
    ("status", "problem"),
    [
        (404, "HTTP 404: not an answer of knock-exporter (wrong --url?)"),
        (
            400,
            "HTTP 400: not an answer of knock-exporter (does the port speak TLS? then use https://; or wrong --url?)",
        ),
        (503, "HTTP 503"),
    ],
)
def test_a_refusal_of_another_server_leads_to_the_url(status: int, problem: str) -> None:
    with serving(answering(http("<html>", status=status), keep=True)) as server, reading(server.url) as api:
        with pytest.raises(ApiError) as told:
            api.groups()
        assert str(told.value) == f"{server.url}: {problem}"


def test_tls_at_a_plain_port_leads_to_http(shown: AppContext) -> None:
    with (
        served(make_app(shown)) as (host, port),
        reading(f"https://{host}:{port}") as api,
        pytest.raises(ApiError, match=r"TLS failed: .* then use http://\)$"),
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
