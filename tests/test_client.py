"""The client against servers of raw bytes: what each answer means, and what never gets out."""

from __future__ import annotations

import gc
import json
import socket
import threading
import traceback
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, cast

import pytest
import requests
import trustme
from chaos import answering, hanging, http, repeating, serving
from hypothesis import given
from hypothesis import strategies as st

from exporter import __version__
from exporter.errors import (
    BadResponse,
    KeyRefused,
    KnockError,
    NotFound,
    Postponed,
    RateLimited,
    Reason,
    Refused,
    StartError,
    TooLarge,
    Unreachable,
)
from exporter.keys import Secret
from exporter.knock.client import MAX_RETRY_AFTER, Client, retry_after
from exporter.knock.deadline import MAX_BODY_BYTES, Deadline, ResponseTooLarge
from exporter.knock.failures import MAX_VALUES, read_body
from exporter.knock.memory_budget import LARGE_BYTES, OWNER_BYTES, MemoryBudget
from exporter.operation import Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from chaos import Handler, Server
    from timing import InTime

    from exporter.knock.response import Response

ID = "b19d032a-fc3b-4a54-9f54-369484527201"
KEY = "sk_test_0123456789abcdef"
RECORD = {"id": ID, "status": "processing", "name": "users.identify", "processed_rows": 3}
OK = http(json.dumps(RECORD))
TIMEOUT = 0.12  # where nothing comes in time; a good answer may take long on a busy machine
DEFAULTS: dict[str, Any] = {"timeout": 20.0}  # and one authority: reading the system's takes 30 ms a client


def client_of(url: str, **options: Any) -> Client:
    return Client(base_url=url, key=Secret(KEY), **DEFAULTS | options)


def error_of(client: Client) -> KnockError:
    with pytest.raises(KnockError) as caught:
        client.fetch(ID)
    return caught.value


def outcome(answer: bytes, **options: Any) -> KnockError:
    with serving(answering(answer)) as server:
        client = client_of(server.url, **options)
        try:
            return error_of(client)
        finally:
            client.close()


def knock_error(status: int, code: str, kind: str = "api_error", **more: Any) -> str:
    return json.dumps({"code": code, "message": "words from the wire", "status": status, "type": kind} | more)


@pytest.fixture(scope="module", autouse=True)
def around(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    DEFAULTS["ca_file"] = tmp_path_factory.mktemp("ca") / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(DEFAULTS["ca_file"]))
    yield
    gc.collect()  # a socket left open warns here, and a warning is an error


# What is sent


def test_a_record_becomes_an_operation() -> None:
    with serving(answering(OK)) as server:
        client = client_of(server.url)
        operation = client.fetch(ID)
        client.close()
    assert (operation.status, operation.rows_processed) == (Status.PROCESSING, 3)


def test_the_request_is_exactly_this() -> None:
    with serving(answering(OK)) as server:
        client = client_of(server.url + "/", branch="my-branch")
        client.fetch(ID)
        client.close()
    assert server.requests[0].decode().split("\r\n") == [
        f"GET /v1/bulk_operations/{ID} HTTP/1.1",
        f"Host: localhost:{server.port}",
        f"Authorization: Bearer {KEY}",
        "Accept: application/json",
        "Accept-Encoding: identity",
        f"User-Agent: knock-exporter/{__version__} python-requests/{requests.__version__}",
        "X-Knock-Branch: my-branch",
        "",
        "",
    ]


def test_no_branch_no_header_and_an_id_cannot_leave_its_place() -> None:
    with serving(answering(http("{}"))) as server:
        client = client_of(server.url)
        with pytest.raises(BadResponse):
            client.fetch("../users?x=\r\ny")
        client.close()
    assert server.requests[0].startswith(b"GET /v1/bulk_operations/..%2Fusers%3Fx%3D%0D%0Ay HTTP/1.1\r\n")
    assert b"Branch" not in server.requests[0]


def test_cookies_are_not_kept_and_the_connection_is() -> None:
    with serving(answering(http(json.dumps(RECORD), 200, "Set-Cookie: a=b"), keep=True)) as server:
        client = client_of(server.url)
        for _ in range(3):
            client.fetch(ID)
        client.close()
    assert server.connections == 1
    assert not any(b"ookie" in request for request in server.requests)


def test_a_new_key_goes_out_on_the_same_connection() -> None:
    with serving(answering(OK, keep=True)) as server:
        client = client_of(server.url)
        client.fetch(ID)
        client.use_key(Secret("sk_test_new"))
        client.fetch(ID)
        client.close()
    assert [b"Bearer sk_test_new" in request for request in server.requests] == [False, True]
    assert server.connections == 1


def test_netrc_and_environment_are_not_consulted(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with serving(answering(OK)) as server:
        client = client_of(server.url)
        client.fetch(ID)
        client.close()
    assert f"Bearer {KEY}".encode() in server.requests[0]


def test_many_threads_share_few_connections() -> None:
    with serving(answering(OK, keep=True)) as server:
        client = client_of(server.url, connections=2, timeout=5)
        found: list[str] = []
        threads = [threading.Thread(target=lambda: found.append(client.fetch(ID).id)) for _ in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        client.close()
    assert found == [ID] * 64
    assert server.connections <= 2


# What an answer means


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (http("no", 401), KeyRefused, "HTTP 401"),
        (http(knock_error(403, "authorization", "authentication_error"), 403), KeyRefused, "HTTP 403 authorization"),
        (http(knock_error(403, "forbidden"), 403), Refused, "HTTP 403 forbidden"),
        (http("<html>", 403), Refused, "HTTP 403"),
        (http(b"\x1f\x8b", 403, "Content-Encoding: gzip"), Refused, "HTTP 403"),
        (http(knock_error(400, "bearer_token_invalid"), 400), KeyRefused, "HTTP 400 bearer_token_invalid"),
        (http(knock_error(400, "api_key_missing"), 400), KeyRefused, "HTTP 400 api_key_missing"),
        (http(knock_error(400, "api_key_expired"), 400), KeyRefused, "HTTP 400 api_key_expired"),
        (http(knock_error(400, "whatever"), 400), Refused, "HTTP 400 whatever"),
        (http(knock_error(404, "resource_missing"), 404), NotFound, "HTTP 404 resource_missing"),
        (http('{"code":"resource_missing","type":"api_error"}', 404), NotFound, "HTTP 404 resource_missing"),
        (http(knock_error(403, "resource_missing"), 404), BadResponse, "status: HTTP 404, but not from Knock's API"),
        (http('{"code":5,"type":"x"}', 404), BadResponse, "status: HTTP 404, but not from Knock's API"),
        (http("[]", 404), BadResponse, "status: HTTP 404, but not from Knock's API"),
        (http("<html>", 404), BadResponse, "status: HTTP 404, but not from Knock's API"),
        (http(knock_error(422, "invalid_params"), 422), Refused, "HTTP 422 invalid_params"),
        (http(knock_error(422, "Bad\u202eCode"), 422), Refused, "HTTP 422"),
        (http(knock_error(422, "x" * 65), 422), Refused, "HTTP 422"),
        (http("slow", 429), RateLimited, "HTTP 429"),
        (http("", 407), Refused, "HTTP 407"),
        (http("", 499), Refused, "HTTP 499"),
        (http("<html>", 502), Refused, "HTTP 502"),
        (http(knock_error(500, "internal"), 500), Refused, "HTTP 500 internal"),
        (http("", 302, "Location: http://127.0.0.1:1/"), BadResponse, "status: HTTP 302, expected 200"),
        (http("", 304), BadResponse, "status: HTTP 304, expected 200"),
        (http("{}", 201), BadResponse, "status: HTTP 201, expected 200"),
        (http("", 204), BadResponse, "status: HTTP 204, expected 200"),
        (http("", 101), BadResponse, "status: HTTP 101, expected 200"),
        (http("", 600), BadResponse, "status: HTTP 600, expected 200"),
        (http("nonsense"), BadResponse, "body: not JSON (DecodeError)"),
        (http(""), BadResponse, "body: not JSON (DecodeError)"),
        (http("[]"), BadResponse, "body: expected an object"),
        (http(b'{"x":' * 200_000), BadResponse, "body: nested too deeply"),
        (
            http(json.dumps(RECORD).replace("3}", "9" * 5000 + "}")),
            BadResponse,
            "processed_rows: expected a whole number from 0 to 2^53",
        ),
        (http(json.dumps(RECORD | {"id": "x"})), BadResponse, "id: another id than the one asked for"),
        (http(json.dumps(RECORD | {"name": "\ud800"})), BadResponse, "name: holds a lone surrogate"),
        (http(b"\xff\x00\xfe"), BadResponse, "body: not JSON (DecodeError)"),
        (
            http(json.dumps(RECORD).encode().replace(b"users", b"\xff")),
            BadResponse,
            "body: not JSON (UnicodeDecodeError)",
        ),
        (
            http("{}", 200, "Content-Encoding: gzip"),
            BadResponse,
            "content-encoding: compressed, though asked not to be",
        ),
        (http("{}", 404, "Content-Encoding: br"), BadResponse, "content-encoding: compressed, though asked not to be"),
    ],
)
def test_what_an_answer_means(answer: bytes, kind: type[KnockError], message: str) -> None:
    error = outcome(answer)
    assert (type(error), str(error)) == (kind, message)
    assert error.code == int(answer.split()[1])


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [
        (http("{}"), True),
        (http("[]"), False),
        (http(knock_error(404, "resource_missing"), 404), True),
        (http("", 404), False),
        (http(knock_error(422, "invalid_params"), 422), True),
        (http("", 422), False),
        (http(knock_error(400, "whatever"), 400), False),
        (http("", 429), True),
        (http("", 503), False),
    ],
)
def test_whether_the_key_was_taken(answer: bytes, *, accepted: bool) -> None:
    assert outcome(answer).accepted_key is accepted


def test_a_key_is_no_request_id() -> None:
    assert outcome(http("", 500, "X-Request-ID: sk_live_0123")).request_id == "sk_***"


def test_a_status_counts_though_the_length_of_its_body_is_no_number() -> None:
    answer = http("", 429).replace(b"Content-Length: 0", b"Content-Length: " + b"9" * 5000)
    assert isinstance(outcome(answer), RateLimited)


@pytest.mark.parametrize(("status", "reason"), [(403, Reason.CLIENT_ERROR), (502, Reason.SERVER_ERROR)])
def test_which_side_is_to_blame(status: int, reason: Reason) -> None:
    assert outcome(http("<html>", status)).reason is reason


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("req_1-A", "req_1-A"),
        ("x" * 128, "x" * 128),
        ("x" * 129, None),
        ("a\x07b", None),
        ("é", None),
    ],
)
def test_the_request_id_is_kept_if_it_is_printable(sent: str, kept: str | None) -> None:
    error = outcome(http("", 500).replace(b"Content", f"X-Request-ID: {sent}\r\nContent".encode(), 1))
    assert error.request_id == kept
    assert str(error) == ("HTTP 500" if kept is None else f"HTTP 500 (request {kept})")


def test_identity_is_not_an_encoding() -> None:
    with serving(answering(http(json.dumps(RECORD), 200, "Content-Encoding: Identity"))) as server:
        client = client_of(server.url)
        assert client.fetch(ID).id == ID
        client.close()


def test_the_status_counts_though_the_body_hangs() -> None:
    def code_of(status: int) -> int | None:
        with serving(hanging(http("x" * 10, status)[:-5])) as server:
            client = client_of(server.url, timeout=10 * TIMEOUT)  # for the head, on a busy machine; then it hangs
            with closing(client):
                return error_of(client).code

    statuses = [401, 429, 403, 500]
    with ThreadPoolExecutor(len(statuses)) as pool:
        assert list(pool.map(code_of, statuses)) == statuses


# How long to wait

NOW = 1_700_000_000.0


def at(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(NOW + seconds, UTC), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "301"}, MAX_RETRY_AFTER),
        ({"retry-after": "9" * 400}, MAX_RETRY_AFTER),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1e3"}, None),
        ({"retry-after": "1_0"}, None),
        ({"retry-after": "\u0661"}, None),
        ({"retry-after": "1, 2"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 99 Foo 99999 99:99:99 GMT"}, None),
        ({"retry-after": at(30)}, 30),
        ({"retry-after": at(-30)}, 0),
        ({"retry-after": at(9999)}, MAX_RETRY_AFTER),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "9999999"}, MAX_RETRY_AFTER),
        ({"retry-after-ms": "-5", "retry-after": "7"}, 7),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == seconds


@given(st.text())
def test_retry_after_takes_any_text(text: str) -> None:
    seconds = retry_after({"retry-after": text, "retry-after-ms": text}, NOW)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER


def test_a_429_tells_how_long_by_the_wall_clock() -> None:
    error = outcome(http("", 429, f"Retry-After: {at(12)}"), wall=lambda: NOW)
    assert isinstance(error, RateLimited)
    assert error.retry_after == 12


# Hostile answers

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
BODY = json.dumps(RECORD).encode()


@pytest.mark.parametrize(
    ("answer", "kind", "field"),
    [
        (b"", Unreachable, None),
        (b"\x00" * 100, BadResponse, "http"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", BadResponse, "http"),
        (b"<html>HTTP/0.9 has no status line</html>", BadResponse, "http"),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", BadResponse, "http"),
        (b"HTTP/1.1 99 OK\r\n\r\n", BadResponse, "http"),
        (b"HTTP/3 200 OK\r\n\r\n", BadResponse, "http"),
        (b"HTTP/0.9 200 OK\r\n\r\n", BadResponse, "body"),
        (HEAD + b"X: " + b"a" * 70_000, BadResponse, "http"),
        (HEAD + b"X: a\r\n" * 5000 + b"\r\n", BadResponse, "http"),
        (HEAD + b"\x00\x00: \x00\r\n\r\n{}", BadResponse, "id"),
        (HEAD + b"no colon\r\nContent-Length: 2\r\n\r\n{}", BadResponse, "id"),
        (HEAD + b"Content-Length: -1\r\n\r\n" + BODY, BadResponse, "http"),
        (HEAD + b"Content-Length: +5\r\n\r\n" + BODY, BadResponse, "http"),
        (HEAD + b"Content-Length: x\r\n\r\n" + BODY, BadResponse, "http"),
        (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + BODY, BadResponse, "http"),
        (HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n" + BODY, BadResponse, "http"),
        (HEAD + b"Content-Length: 9999\r\n\r\n" + BODY, BadResponse, "body"),
        (HEAD + b"Content-Length: 5\r\n\r\n" + BODY, BadResponse, "body"),
        (HEAD + b"Content-Le", BadResponse, "body"),
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n", BadResponse, "http"),
        (CHUNKED + b"zz\r\n", BadResponse, "body"),
        (CHUNKED + b"\r\n", BadResponse, "body"),
        (CHUNKED + b"-5\r\n" + BODY, BadResponse, None),
        (CHUNKED + b"-1\r\n" + BODY, BadResponse, None),
        (CHUNKED + b"FFFFFFFFFFFFFFFFFFFF\r\n" + BODY, BadResponse, "body"),
        (CHUNKED + b"5\r\n{", BadResponse, "body"),
        (CHUNKED + b"5;" + b"x" * 70_000, BadResponse, "http"),
        (CHUNKED + b"1\r\n \r\n0\r\n" + b"X: y\r\n" * 101 + b"\r\n", BadResponse, "http"),
        (HEAD + b"Content-Length: 16777217\r\n\r\n", TooLarge, None),
        (HEAD + b"\r\n" + b" " * (MAX_BODY_BYTES + 1), TooLarge, None),
    ],
)
def test_hostile_answers_are_errors_of_ours(answer: bytes, kind: type[KnockError], field: str | None) -> None:
    error = outcome(answer, timeout=2)
    assert type(error) is kind, repr(error)
    if field is not None:
        assert error.__dict__["field"] == field, repr(error)


@pytest.mark.parametrize("lengths", ["Content-Length: {0}\r\nContent-Length: {0}\r\n", "Content-Length: {0} , {0}\r\n"])
def test_of_lengths_that_agree_one_counts(lengths: str) -> None:
    with serving(answering(HEAD + lengths.format(len(BODY)).encode() + b"\r\n" + BODY, keep=True)) as server:
        client = client_of(server.url)
        assert [client.fetch(ID).rows_processed for _ in range(2)] == [3, 3]
        client.close()
    assert server.connections == 1


def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next() -> None:
    read, more = threading.Event(), threading.Event()
    unasked = http(json.dumps(RECORD | {"status": "completed", "processed_rows": 99}))

    def bind(server: Server) -> Handler:
        def handle(connection: socket.socket) -> None:
            while server.request(connection):
                connection.sendall(OK)
                read.wait()
                connection.sendall(unasked)
                more.set()

        return handle

    with serving(bind) as server:
        client = client_of(server.url)
        assert client.fetch(ID).rows_processed == 3
        read.set()
        more.wait()
        assert client.fetch(ID).rows_processed == 3
        client.close()
    assert server.connections == 2


EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
INTERIM = (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 102 Processing\r\n\r\n", EARLY_HINTS, b"HTTP/1.1 104 X\r\n\r\n")


def test_interim_answers_are_skipped_up_to_a_bound() -> None:
    for first in (b"".join(INTERIM), EARLY_HINTS * 16):
        with serving(answering(first + OK, keep=True)) as server:
            client = client_of(server.url)
            assert [client.fetch(ID).status for _ in range(2)] == [Status.PROCESSING] * 2
            client.close()
        assert server.connections == 1
    assert str(outcome(EARLY_HINTS * 17 + OK)) == "http: malformed answer (TooManyInterimResponses)"
    assert str(outcome(EARLY_HINTS + http("", 500))) == "HTTP 500"
    assert str(outcome(EARLY_HINTS)) == "closed without an answer"


@pytest.mark.parametrize(
    ("bind", "kind"),
    [
        (repeating(HEAD + b"\r\n", b" " * 65536), TooLarge),
        (repeating(CHUNKED + b"-1\r\n", b" " * 65536), TooLarge),
        (repeating(CHUNKED, (b"400\r\n" + b" " * 1024 + b"\r\n") * 64), TooLarge),
        (repeating(b"", b"HTTP/1.1 100 Continue\r\nX: " + b"a" * 60_000 + b"\r\n\r\n"), BadResponse),
        (repeating(b"", b"a" * 65536), BadResponse),
        (repeating(HEAD, b"a" * 65536), BadResponse),
    ],
)
def test_floods_end(bind: Any, kind: type[KnockError]) -> None:
    with serving(bind) as server:
        client = client_of(server.url, timeout=5)
        assert isinstance(error_of(client), kind)
        client.close()


@pytest.mark.parametrize("head", [CHUNKED, HEAD + b"Content-Length: 300000\r\n\r\n"])
def test_a_large_answer_without_room_is_postponed(head: bytes) -> None:
    budget = MemoryBudget()
    with (
        serving(repeating(head, (b"40\r\n" + b" " * 64 + b"\r\n") * 1024)) as server,
        budget.reservation("here", "x") as other,
    ):
        other.declare(OWNER_BYTES)
        client = client_of(server.url, timeout=5, budget=budget, owner="here")
        error = error_of(client)
        assert (type(error), error.code, str(error)) == (Postponed, 200, "no memory left for an answer")
        assert budget.reserve("here", ID) > 0, "it is asked for again when there is room"
        client.close()
    assert budget.reserve("here", ID) == 0


def test_want_of_memory_is_postponed() -> None:
    def wall() -> float:
        raise MemoryError

    error = outcome(http("slow", 429), wall=wall)
    assert (type(error), str(error)) == (Postponed, "no memory left for an answer")


@pytest.mark.parametrize(("more", "kind"), [(0, BadResponse), (1, TooLarge)])
def test_an_answer_of_too_many_values_is_not_decoded(more: int, kind: type[KnockError]) -> None:
    body = b"[" * (MAX_VALUES // 2) + b"," * (MAX_VALUES // 4) + b"{" * (MAX_VALUES // 4 + more)
    assert type(outcome(http(body), timeout=5)) is kind


@pytest.mark.parametrize(
    ("status", "kind"), [(404, BadResponse), (429, RateLimited), (401, KeyRefused), (403, Refused), (500, Refused)]
)
def test_a_large_error_is_not_read(status: int, kind: type[KnockError]) -> None:
    error = outcome(http(knock_error(status, "x", "authentication_error", more="x" * LARGE_BYTES), status), timeout=5)
    assert type(error) is kind


class TooLargeBody:
    """A body that is twice as large as one may be; `given` counts its bytes."""

    status = 200
    headers: Mapping[str, str] = {"transfer-encoding": "chunked"}
    given = 0

    def read(self, most: int) -> bytes:
        piece = b" " * min(most, 2 * MAX_BODY_BYTES - self.given)
        self.given += len(piece)
        return piece


def test_a_flood_takes_no_more_memory_than_a_body_may() -> None:
    with serving(repeating(CHUNKED + b"-1\r\n", b" " * 65536)) as server:
        client = client_of(server.url, timeout=5)
        tracemalloc.start()
        error_of(client)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        client.close()
    assert peak < 3 * MAX_BODY_BYTES
    # Both bounds, each by itself: that of the body, and that of all that comes in.
    body = TooLargeBody()
    with pytest.raises(TooLarge):
        read_body(cast("Response", body), MemoryBudget().reservation("here", ID))
    assert body.given < MAX_BODY_BYTES + LARGE_BYTES
    deadline = Deadline(TIMEOUT)
    deadline.spend(MAX_BODY_BYTES + 2**20)
    with pytest.raises(ResponseTooLarge):
        deadline.spend(1)


@pytest.mark.parametrize(
    "bind",
    [
        hanging(),
        hanging(b"HTTP/1.1 2"),
        hanging(HEAD),
        hanging(http("x" * 10)[:-5]),
        hanging(CHUNKED + b"5\r\n"),
        hanging(http("x" * 10, 404)[:-5]),
        repeating(b"", b"H", 0.02),
        repeating(HEAD, b"a: b\r\n", 0.02),
        repeating(CHUNKED, b"1\r\n \r\n", 0.02),
        repeating(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.02),
        repeating(EARLY_HINTS, b"H", 0.02),
        repeating(HEAD + b"Content-Length: 9999\r\n\r\n", b" ", 0.02),
    ],
)
def test_whatever_trickles_ends_with_the_deadline(bind: Any, in_time: InTime) -> None:
    with serving(bind) as server:
        client = client_of(server.url, timeout=TIMEOUT)
        with in_time(TIMEOUT, at_least=TIMEOUT):
            error = error_of(client)
        client.close()
    assert (type(error), error.reason, str(error)) == (Unreachable, Reason.TIMEOUT, "no whole answer in time")


def test_any_bytes_end_in_an_error_of_ours() -> None:
    said = b""

    def say(server: Server) -> Handler:
        def handle(connection: socket.socket) -> None:
            server.request(connection)
            connection.sendall(said)

        return handle

    with serving(say) as server:
        client = client_of(server.url, timeout=2)

        @given(st.sampled_from([b"", HEAD, CHUNKED]), st.binary(max_size=200))
        def check(head: bytes, garbage: bytes) -> None:
            nonlocal said
            said = head + garbage
            error_of(client)

        check()
        client.close()


def test_a_connection_is_kept_after_errors_but_not_after_half_read_bodies() -> None:
    for answer, connections in ((http("{}", 500), 1), (http("", 429), 1), (http("x", 302), 2), (http("x", 201), 2)):
        with serving(answering(answer, keep=True)) as server:
            client = client_of(server.url, connections=1)
            for _ in range(2):
                error_of(client)
            client.close()
            assert server.connections == connections


@pytest.mark.parametrize(
    ("head", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\ncontent-length:%d\r\nX: a\r\n b\r\nX: c\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n%x\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: Close\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\nConnection: Keep-Alive\r\n\r\n", True),
    ],
)
def test_a_connection_is_kept_as_the_answer_says(head: bytes, *, kept: bool) -> None:
    end = b"\r\n0\r\n\r\n" if b"Chunked" in head else b""
    with serving(answering(head % len(BODY) + BODY + end, keep=True)) as server:
        client = client_of(server.url, connections=1)
        assert [client.fetch(ID).status for _ in range(2)] == [Status.PROCESSING] * 2
        client.close()
        assert server.connections == (1 if kept else 2)


def test_a_broken_exchange_gives_its_place_back() -> None:
    for answer in (http("x" * 9)[:-3], CHUNKED + b"zz\r\n", b"no", http("", 302)):
        with serving(answering(answer)) as server:
            client = client_of(server.url, connections=1)
            messages = {str(error_of(client)) for _ in range(3)}
            client.close()
        assert len(messages) == 1, messages


# What never gets out


def leaking(server: Server) -> Handler:
    echo = http(knock_error(400, KEY), 400, f"X-Request-ID: {KEY}")
    return answering(echo)(server)


def silent(server: Server) -> Handler:
    return lambda connection: server.request(connection) and None


@pytest.mark.parametrize(
    "bind",
    [
        leaking,
        silent,
        hanging(),
        hanging(HEAD),
        answering(b"garbage\r\n"),
        answering(HEAD + b"X: " + b"a" * 70_000),
        answering(http(json.dumps(RECORD | {"status": KEY, "id": KEY}))),
        answering(http("", 401)),
        answering(http(knock_error(404, "resource_missing"), 404)),
        answering(http(KEY, 404)),
        answering(http("", 429)),
        answering(http("", 503)),
        answering(http("", 302)),
        answering(HEAD + b"Content-Length: 16777217\r\n\r\n"),
        answering(HEAD + b"Content-Length: 99\r\n\r\n{}"),
        answering(CHUNKED + b"zz\r\n"),
        repeating(HEAD + b"\r\n", b" " * 65536),
    ],
)
def test_no_error_holds_the_key(bind: Any) -> None:
    with serving(bind) as server:
        client = client_of(server.url, timeout=1)
        error = error_of(client)
        client.close()
    assert error.__cause__ is None
    assert error.__context__ is None
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if "exporter" in frame.f_code.co_filename]
    assert [frame.f_code.co_name for frame in frames] == ["fetch", "_fetched"], "neither has the headers at hand"
    seen = [*traceback.format_exception(error), repr(error), repr(vars(error)), *map(repr, frames[0].f_locals.values())]
    assert not any(KEY in text for text in seen)


def test_the_client_does_not_show_its_key() -> None:
    client = client_of("https://api.knock.app")
    assert repr(client) == str(client) == "Client(https://api.knock.app)"
    client.close()


# No connection


def test_refused_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    client = client_of(f"http://127.0.0.1:{port}")
    error = error_of(client)
    client.close()
    assert (error.reason, str(error)) == (Reason.CONNECT, "connection refused")


def test_closed_and_reset_without_an_answer() -> None:
    def reset(server: Server) -> Handler:
        def handle(connection: socket.socket) -> None:
            server.request(connection)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

        return handle

    for bind, message in ((silent, "closed without an answer"), (reset, "connection reset by peer")):
        with serving(bind) as server:
            client = client_of(server.url)
            error = error_of(client)
            client.close()
        assert (error.reason, str(error)) == (Reason.CONNECT, message)


def test_after_close_a_fetch_fails_in_our_terms() -> None:
    with serving(answering(OK)) as server:
        client = client_of(server.url)
        client.close()
        error = error_of(client)
    assert (error.reason, str(error)) == (Reason.CONNECT, "the client was closed")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "api.knock.app"}, "base URL: not an http or https URL"),
        ({"base_url": "http://"}, "base URL: not an http or https URL"),
        ({"base_url": "ftp://host"}, "base URL: not an http or https URL"),
        ({"proxy": Secret("socks5://me:pw@host")}, "proxy: not an http or https URL"),
        ({"proxy": Secret("http://")}, "proxy: not an http or https URL"),
    ],
)
def test_what_cannot_be_used_is_told_at_the_start(options: dict[str, Any], message: str) -> None:
    with pytest.raises(StartError) as caught:
        client_of(options.pop("base_url", "https://api.knock.app"), **options)
    assert str(caught.value) == message


def test_a_key_that_no_header_can_hold_is_not_told() -> None:
    with serving(answering(OK)) as server:
        client = client_of(server.url)
        client.use_key(Secret(f"{KEY}\r\nX: y"))
        error = error_of(client)
        client.close()
    assert str(error) == "http: malformed answer (ValueError)"


@pytest.mark.parametrize("base_url", ["https://api.knock.app", "http://127.0.0.1:9"])
def test_a_missing_ca_file_is_told_at_the_start(tmp_path: Any, base_url: str) -> None:
    (tmp_path / "empty.pem").write_text("")
    for name, why in (("none.pem", "No such file or directory"), ("empty.pem", "")):
        with pytest.raises(StartError, match=f"{name}: .*{why}"):
            Client(base_url=base_url, key=Secret(KEY), ca_file=tmp_path / name)
