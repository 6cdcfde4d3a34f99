"""Lists of operations from an address: what is sent, what counts, and what is said of the rest."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest.mock import ANY

import pytest
import trustme
from chaos import answering, hanging, http, repeating, serving
from structlog.testing import capture_logs
from timing import BUSY_SECONDS

from exporter import __version__
from exporter.config import Config, EnvironmentSettings, ListedOperation
from exporter.config.settings import HttpSource
from exporter.errors import Postponed
from exporter.keys import KeySource, Secret
from exporter.knock.deadline import MAX_BODY_BYTES
from exporter.knock.memory_budget import MemoryBudget
from exporter.sources import Sources
from exporter.sources.http import fetch
from exporter.sources.listing import BrokenList
from exporter.sources.polling import HttpLists
from exporter.tracking.memberships import SourceKey, SourceKind
from exporter.tracking.messages import Listed, Reread, Unread
from exporter.tracking.transitions import Moment
from exporter.values import show_url

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from timing import InTime

    from exporter.knock.memory_budget import Reservation

A = "123e4567-e89b-12d3-a456-426614174000"
B = "b19d032a-fc3b-4a54-9f54-369484527201"
BODY = json.dumps([{"targets": [A], "labels": {"group": "sync", "team": "growth"}}, {"targets": [B]}])
LIST = (ListedOperation(A, "sync", (("team", "growth"),)), ListedOperation(B))
JSON = "Content-Type: application/json"
TOKEN = "t0ken-0123456789-abcdefghijklmnopqrstuvwxyz"
LIMIT = 0.2
URL = "https://ids.example/list?key=hunter2"


def get(url: str, **options: Any) -> tuple[ListedOperation, ...]:
    return fetch(HttpSource(url, **options), ("team",), timeout=2)


def problem(answer: bytes | Callable[..., Any], **options: Any) -> str:
    with serving(answering(answer) if isinstance(answer, bytes) else answer) as server:
        with pytest.raises(BrokenList) as caught:
            get(f"{server.url}/list?key=hunter2", **options)
        assert server.connections == 1
    assert caught.value.__cause__ is None
    assert "hunter2" not in str(caught.value)
    return str(caught.value)


# One list


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=x"])
def test_a_list(kind: str) -> None:
    with serving(answering(http(BODY, 200, f"Content-Type: {kind}"))) as server:
        assert get(server.url) == LIST


def test_early_hints_are_skipped() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
    with serving(answering(hints + http(BODY, 200, JSON))) as server:
        assert get(server.url) == LIST


def test_what_is_sent(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    with serving(answering(http(BODY, 200, JSON))) as server:
        get(f"{server.url}/a/b?c=d&e", interval=90.5, bearer_token_file=KeySource(file=file))
        head, *lines = server.requests[0].decode().strip().split("\r\n")
    assert head == "GET /a/b?c=d&e HTTP/1.1"
    assert sorted(lines) == [
        "Accept-Encoding: identity",
        "Accept: application/json",
        f"Authorization: Bearer {TOKEN}",
        f"Host: localhost:{server.port}",
        f"User-Agent: knock-exporter/{__version__}",
        "X-Prometheus-Refresh-Interval-Seconds: 90.5",
    ]


def test_the_interval_is_written_as_prometheus_does() -> None:
    with serving(answering(http(BODY, 200, JSON))) as server:
        for interval in (60.0, 1.0, 0.5, 31_536_000.0):
            get(server.url, interval=interval)
    sent = [line for head in server.requests for line in head.decode().split("\r\n") if line.startswith("X-Prom")]
    assert [line.partition(": ")[2] for line in sent] == ["60", "1", "0.5", "31536000"]


def test_nothing_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine localhost login me password hunter2\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with serving(answering(http(BODY, 200, JSON))) as server:
        assert get(server.url) == LIST
    assert b"Authorization" not in server.requests[0]


def test_the_token_is_read_each_time(tmp_path: Path) -> None:
    file = tmp_path / "token"
    with serving(answering(http("[]", 200, JSON))) as server:
        for token in ("first-token", "second-token"):
            file.write_text(token)
            assert get(server.url, bearer_token_file=KeySource(file=file)) == ()
            assert f"Authorization: Bearer {token}\r\n".encode() in server.requests[-1]


def test_no_token_is_not_a_request(tmp_path: Path) -> None:
    file = tmp_path / "token"
    with serving(answering(http(BODY, 200, JSON))) as server, pytest.raises(BrokenList) as caught:
        get(server.url, bearer_token_file=KeySource(file=file))
    assert str(caught.value) == f"bearer token: {file}: No such file or directory"
    assert not server.requests


REDIRECT = "Location: https://elsewhere.example/?key=hunter2"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (http("", 301, REDIRECT), "HTTP 301: redirects are not followed (configure the address that it leads to)"),
        (http("", 304), "HTTP 304: redirects are not followed (configure the address that it leads to)"),
        (http("", 401), "HTTP 401 (check bearer_token_file)"),
        (http("", 403), "HTTP 403 (check bearer_token_file)"),
        (http(BODY, 404, JSON), "HTTP 404, expected 200"),
        (http(BODY, 500, JSON), "HTTP 500, expected 200"),
        (http("", 204, JSON), "HTTP 204, expected 200"),
        (http(BODY), "is not JSON by its Content-Type (expected application/json)"),
        (http(BODY, 200, "Content-Type: text/html"), "is not JSON by its Content-Type (expected application/json)"),
        (http("", 200, JSON), "is empty (to list nothing, write [])"),
        (http("<html>", 200, JSON), "line 1: is not valid JSON at column 1: Expecting value"),
        (
            http('[{"targets": ["x"]}]', 200, JSON),
            'line 1: [0].targets[0]: "x" is not a valid UUID (expected e.g. 123e4567-e89b-12d3-a456-426614174000)',
        ),
        (
            http('[{"targets": [], "labels": {"taem": "x"}}]', 200, JSON),
            'line 1: [0].labels.taem: is not declared under the configuration\'s labels (did you mean "team"?)',
        ),
        (http(b"\xff", 200, JSON), "line 1: is not UTF-8 text (save it as UTF-8)"),
        (http(BODY, 200, JSON)[:-9], "body: broke off"),
        (http(BODY, 200, JSON, "Content-Encoding: gzip"), "content-encoding: compressed, though asked not to be"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 16777217\r\n\r\n", "too large"),
        (b"", "closed without an answer"),
        (b"SSH-2.0-OpenSSH\r\n", "http: malformed answer (BadStatusLine)"),
    ],
)
def test_what_does_not_count(answer: bytes, message: str) -> None:
    assert problem(answer) == message.replace("too large", "an answer of more than 16 MiB")


@pytest.mark.parametrize("written", ["first/token-1", r"first\/token-1", r"\u0066irst/token\u002d1"])
def test_a_token_that_comes_back_is_masked(tmp_path: Path, written: str) -> None:
    file = tmp_path / "token"
    file.write_text("first/token-1")
    body = BODY.replace("sync", written)
    assert body != BODY
    with serving(answering(http(body, 200, JSON))) as server:
        (first, *_) = get(server.url, bearer_token_file=KeySource(file=file))
    assert first.group == "***"


def test_a_query_may_name_a_group_but_no_message_quotes_it() -> None:
    query = "?group=nightly-sync&" + "k1" * 40
    good = BODY.replace("sync", "nightly-sync")
    with serving(answering(http(good, 200, JSON))) as server:
        assert get(server.url + query)[0].group == "nightly-sync"
    bad = http(good.replace("team", "k1" * 40), 200, JSON)
    with serving(answering(bad)) as server, pytest.raises(BrokenList) as caught:
        get(server.url + query)
    assert "k1k1" not in str(caught.value)
    assert "is not declared" in str(caught.value)


def test_a_body_that_never_ends() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
    with serving(repeating(head, b" " * 2**20)) as server, pytest.raises(BrokenList) as caught:
        fetch(HttpSource(server.url), (), timeout=10)
    assert str(caught.value) == "an answer of more than 16 MiB"


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200", http(BODY, 200, JSON)[:-1]])
def test_one_deadline_for_all(answer: bytes, in_time: InTime) -> None:
    with serving(hanging(answer)) as server, in_time(LIMIT, at_least=LIMIT), pytest.raises(BrokenList) as caught:
        fetch(HttpSource(server.url), (), timeout=LIMIT)
    assert str(caught.value) == "no whole answer in time"


def test_trickled_headers_do_not_stretch_it(in_time: InTime) -> None:
    endless = repeating(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", 0.02)
    with serving(endless) as server, in_time(LIMIT), pytest.raises(BrokenList):
        fetch(HttpSource(server.url), (), timeout=LIMIT)


def test_a_name_that_does_not_resolve_in_time() -> None:
    over = threading.Event()

    def lookup(*_: Any, **__: Any) -> Any:
        over.wait(60)
        return []

    with pytest.raises(BrokenList, match=r"^the name did not resolve in time$"):
        fetch(HttpSource("http://ids.example/"), (), timeout=LIMIT, lookup=lookup)
    over.set()


@pytest.mark.parametrize("status", [200, 500])
def test_no_message_shows_the_token_even_if_it_is_sent_back(status: int) -> None:
    body = json.dumps([{"targets": [TOKEN], "labels": {TOKEN: TOKEN}}])
    message = problem(
        http(body, status, JSON, f"X-Request-ID: {TOKEN}"), bearer_token_file=KeySource(inline=Secret(TOKEN))
    )
    assert TOKEN[:12] not in message


def test_trust(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with serving(answering(http(BODY, 200, JSON)), context) as server:
        assert get(server.url, ca_file=tmp_path / "ca.pem") == LIST
        with pytest.raises(BrokenList) as caught:
            get(server.url)
    assert str(caught.value) == "certificate verify failed: unable to get local issuer certificate"


def test_authorities_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    with pytest.raises(BrokenList) as caught:
        get(URL, ca_file=path)
    assert str(caught.value) == f"{path}: No such file or directory"
    path.write_text("x")
    with pytest.raises(BrokenList, match=r"ca\.pem: "):
        get(URL, ca_file=path)


def test_no_thread_and_no_connection_is_left() -> None:
    before = set(threading.enumerate())
    with serving(answering(http(BODY, 200, JSON), keep=True)) as server:
        for _ in range(3):
            get(server.url)
    for thread in set(threading.enumerate()) - before:
        thread.join(2)
    assert set(threading.enumerate()) <= before
    assert server.connections == 3


@pytest.mark.parametrize(
    ("url", "public"),
    [
        (URL, "https://ids.example/list"),
        ("http://me:hunter2@[::1]:8080/", "http://[::1]:8080/"),
        ("http://ids.example", "http://ids.example"),
    ],
)
def test_logs_show_no_query(url: str, public: str) -> None:
    assert show_url(url) == public


# All lists, in virtual time


def configured(*sources: HttpSource, labels: tuple[str, ...] = (), name: str = "production") -> Config:
    return Config(
        (EnvironmentSettings(name, api_key=KeySource(inline=Secret("sk_test_1")), operations_http=sources),), labels
    )


HTTP = HttpSource(URL)
OTHER = HttpSource("http://other.example/", interval=10)
CONFIG = configured(HTTP)
UNREAD = Unread("production", ANY, ANY)
POSTPONED = Postponed("no memory left for an answer")
DOWN = BrokenList("connection refused")


def listed(*operations: ListedOperation, url: str = URL) -> Listed:
    return Listed("production", SourceKey(SourceKind.HTTP, url), operations)


class Scene:
    """Lists whose fetches wait until a test answers them."""

    def __init__(self, config: Config = CONFIG, *remembered: tuple[str, SourceKey]) -> None:
        self.now = Moment(1000.0, 0.0)
        self.asked: list[tuple[HttpSource, tuple[str, ...]]] = []
        self.delivered: list[Listed | Unread] = []
        self.waiting: deque[Callable[[], None]] = deque()
        self.logs: list[Any] = []
        self._answer: Any = None
        self.lists = HttpLists(config, self.delivered.append, remembered, fetch=self._fetch, start=self.waiting.append)

    def _fetch(
        self, source: HttpSource, labels: tuple[str, ...], _reservation: Reservation
    ) -> tuple[ListedOperation, ...]:
        self.asked.append((source, labels))
        if isinstance(self._answer, Exception):
            raise self._answer
        return tuple(self._answer)

    def answer(self, answer: Any) -> list[Listed | Unread]:
        """Let the fetch that waits longest end with this."""
        self._answer = answer
        self.waiting.popleft()()
        return self.step(0)

    def step(self, seconds: float = 1.0) -> list[Listed | Unread]:
        """Let time pass, and what is due be done; return what was delivered."""
        self.now = Moment(self.now.mono + seconds, 0.0)
        with capture_logs() as logs:
            self.lists.step(self.now)
        self.logs += logs
        news, self.delivered[:] = list(self.delivered), []
        return news


def test_a_list_is_asked_for_at_once_and_at_its_interval() -> None:
    house = Scene()
    for operations in (LIST, LIST, ()):
        house.step(0)
        assert house.answer(operations) == [listed(*operations)]
        house.step(59)
        assert not house.waiting
        house.step(1)
    assert house.asked == [(HTTP, ())] * 3


def test_an_error_is_counted_each_time_and_told_once() -> None:
    house = Scene()
    for answer in (DOWN, DOWN, BrokenList("HTTP 500, expected 200"), DOWN, LIST, LIST):
        house.step(60)
        assert house.answer(answer) == [UNREAD if isinstance(answer, BrokenList) else listed(*LIST)]
    told = "list of operations cannot be used, keeping its last list"
    about = {"environment": "production", "url": "https://ids.example/list"}
    assert house.logs == [
        {"event": told, "log_level": "warning", "error": error, **about}
        for error in ("connection refused", "HTTP 500, expected 200", "connection refused")
    ] + [{"event": "list of operations is good again", "log_level": "info", **about}]


def test_a_list_that_hangs_is_not_asked_again_and_delays_no_other() -> None:
    house = Scene(configured(HTTP, OTHER))
    house.step()
    hanging_one = house.waiting.popleft()
    for _ in range(20):
        assert house.answer(LIST) == [listed(*LIST, url=OTHER.url)]
        house.step(10)
    assert [source for source, _ in house.asked] == [OTHER] * 20
    hanging_one()
    house.step(0)
    assert house.asked[-1] == (HTTP, ())


def test_what_nobody_foresaw_is_an_error_like_others() -> None:
    house = Scene()
    house.step()
    with capture_logs() as logs:
        assert house.answer(RuntimeError("surprise")) == [UNREAD]
    assert [each["event"] for each in logs] == ["fetching a list of operations failed"]
    assert house.logs[0]["error"] == "unforeseen RuntimeError"
    house.step(60)
    assert house.answer(LIST) == [listed(*LIST)]


def test_what_memory_does_not_do_for_is_asked_again_and_is_not_an_error() -> None:
    house = Scene()
    house.step()
    assert house.answer(POSTPONED) == []
    assert house.answer(POSTPONED) == []
    assert house.answer(LIST) == [listed(*LIST)]
    assert [line["event"] for line in house.logs] == ["not enough memory for a list of operations, asking again later"]


def test_a_list_that_was_large_waits_for_room() -> None:
    budget = MemoryBudget()
    delivered: list[Any] = []
    waiting: deque[Callable[[], None]] = deque()

    def fetch(_source: HttpSource, _labels: tuple[str, ...], reservation: Reservation) -> tuple[ListedOperation, ...]:
        reservation.declare(MAX_BODY_BYTES)
        return LIST

    lists = HttpLists(CONFIG, delivered.append, budget=budget, fetch=fetch, start=waiting.append)
    lists.step(Moment(1000.0, 0.0))
    waiting.popleft()()
    busy = [budget.reservation(name, "") for name in "abc"]
    for each in busy:
        each.declare(MAX_BODY_BYTES)
    lists.step(Moment(1060.0, 0.0))
    assert not waiting
    with busy[0]:
        pass
    lists.step(Moment(1061.0, 0.0))
    waiting.popleft()()
    lists.step(Moment(1062.0, 0.0))
    assert delivered == [listed(*LIST)] * 2


def test_no_thread_to_be_had_is_an_error_like_others() -> None:
    def start(_: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    delivered: list[Any] = []
    lists = HttpLists(CONFIG, delivered.append, start=start)
    for second in range(120):
        lists.step(Moment(1000.0 + second, 0.0))
    assert delivered == [UNREAD, UNREAD]


def test_a_removed_list_is_let_go_at_once() -> None:
    house = Scene()
    house.step()
    house.answer(LIST)
    house.lists.reconfigure(configured(OTHER))
    assert house.step(0) == [listed()]
    house.lists.reconfigure(configured())
    assert house.step() == []


def test_an_answer_that_comes_after_the_end_of_its_list_does_not_count() -> None:
    house = Scene()
    house.step()
    house.lists.reconfigure(configured())
    assert house.answer(LIST) == []
    house.lists.reconfigure(CONFIG)
    house.step(0)
    assert house.answer(LIST) == [listed(*LIST)]


@pytest.mark.parametrize("changed", [configured(replace(HTTP, interval=5)), configured(HTTP, labels=("team",))])
def test_a_changed_list_is_asked_anew_but_never_twice_at_a_time(changed: Config) -> None:
    house = Scene()
    house.step()
    house.lists.reconfigure(changed)
    house.step()
    assert len(house.waiting) == 1
    assert house.answer(DOWN) == []
    assert house.logs == []
    assert house.answer(LIST) == [listed(*LIST)]
    assert house.asked[-1] == (changed.environments[0].operations_http[0], changed.labels)


def test_an_unchanged_list_goes_on_over_a_reload() -> None:
    house = Scene()
    house.step()
    house.lists.reconfigure(configured(OTHER, HttpSource(URL)))
    assert house.answer(LIST) == [listed(*LIST)]
    assert house.answer(()) == [listed(url=OTHER.url)]


def test_a_removed_environment_is_silent_until_it_is_back() -> None:
    house = Scene()
    house.step()
    house.answer(LIST)
    house.lists.reconfigure(configured(name="other"))
    assert house.step() == []
    house.lists.reconfigure(configured())
    assert house.step() == [listed()]


def test_what_was_removed_while_the_exporter_was_down_is_dropped() -> None:
    old = SourceKey(SourceKind.HTTP, "http://old.example/")
    kept = SourceKey(SourceKind.HTTP, URL)
    house = Scene(
        CONFIG,
        ("production", old),
        ("production", kept),
        ("gone", old),
        ("production", SourceKey(SourceKind.FILES, "/a")),
    )
    assert house.step() == [Listed("production", old, ())]
    assert house.answer(DOWN) == [UNREAD]


# Everything together, with real threads


def test_sources(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(A)
    delivered: list[Any] = []
    with serving(answering(http(BODY, 200, JSON))) as server:
        url = f"{server.url}/"
        environment = replace(configured(HttpSource(url)).environments[0], operations_files=(f"{tmp_path}/*.txt",))
        gone = ("production", SourceKey(SourceKind.HTTP, "http://old.example/"))
        sources = Sources(Config((environment,), ("team",)), delivered.append, [gone], start=lambda work: work())
        start = time.monotonic()
        sources.step(Moment(start, time.time() + 10))
        while len(delivered) < 4 and time.monotonic() < start + 5 + BUSY_SECONDS:
            time.sleep(0.01)
            sources.step(Moment(time.monotonic(), time.time()))
    of_file = SourceKey(SourceKind.FILES, str(tmp_path / "a.txt"))
    assert delivered == [
        Listed("production", gone[1], ()),
        Listed("production", of_file, (ListedOperation(A),)),
        Reread("production", SourceKind.FILES),
        Listed("production", SourceKey(SourceKind.HTTP, url), LIST),
    ]
    delivered.clear()
    (tmp_path / "a.txt").write_text("half an i")
    for seconds in (10, 15, 20):
        sources.check_for_changes(Moment(start + seconds, time.time()))
    # What is being written does not count yet; once it does, and is broken, nothing is good any more.
    assert delivered == [Reread("production", SourceKind.FILES), Unread("production", ANY, ANY)]
    delivered.clear()
    sources.reconfigure(Config((replace(environment, operations_files=(), operations_http=()),)))
    assert delivered == []
    sources.step(Moment(start + 60, time.time()))
    sources.check_for_changes(Moment(start + 60, time.time()))
    assert delivered == [Listed("production", SourceKey(SourceKind.HTTP, url), ()), Listed("production", of_file, ())]


def test_a_look_at_files_that_hangs_holds_nothing_up() -> None:
    looks: list[Callable[[], None]] = []
    delivered: list[Any] = []
    sources = Sources(Config((environment_of_files(),)), delivered.append, start=looks.append)
    with capture_logs() as logs:
        for seconds in range(0, 200, 5):
            sources.step(Moment(1000.0 + seconds, 0.0))
            sources.check_for_changes(Moment(1000.0 + seconds, 0.0))
    assert len(looks) == 1
    assert [each["log_level"] for each in logs] == ["warning"]
    assert logs[0]["event"].startswith("reading operations_files hangs")
    looks[0]()
    assert delivered == [Reread("production", SourceKind.FILES)]
    sources.check_for_changes(Moment(1300.0, 0.0))
    assert len(looks) == 2


def environment_of_files() -> EnvironmentSettings:
    return replace(
        configured(HttpSource("http://127.0.0.1:9/")).environments[0],
        operations_http=(),
        operations_files=("/nowhere/*",),
    )
