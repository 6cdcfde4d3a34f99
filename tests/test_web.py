"""What is served over HTTP: the application in process, and the server around it on a socket."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import socket
import threading
import zlib
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest
from model import Model, environment, ids, running
from programs import until
from registration_service import TOKEN, FakeService, served

from exporter import __version__
from exporter.config import Config
from exporter.errors import StartError
from exporter.metrics.exposition import Format, Rows, View
from exporter.servers import bind
from exporter.web.app import make_app, make_health_app
from exporter.web.context import AppContext
from exporter.web.server import WebServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp
    from timing import InTime

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


class Reply(NamedTuple):
    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def text(self) -> str:
        return (gzip.decompress(self.body) if self.headers.get("Content-Encoding") == "gzip" else self.body).decode()


async def asked(app: ASGIApp, path: str = "/metrics", method: str = "GET", **headers: str) -> Reply:
    sent = {"Accept": "*/*", "Accept-Encoding": "identity"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    async with (
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://exporter") as client,
        client.stream(method, path, headers=sent) as answer,
    ):
        return Reply(answer.status_code, answer.headers, b"".join([piece async for piece in answer.aiter_raw()]))


def ask(app: ASGIApp, path: str = "/metrics", method: str = "GET", **headers: str) -> Reply:
    return asyncio.run(asked(app, path, method, **headers))


@pytest.fixture(scope="module")
def model() -> Model:
    made = Model(Config((environment(operations=ids(3)),)), lambda request, _now: running(request.id))
    made.run(2)
    return made


def app_context(model: Model, view: View | None = None, **settings: Any) -> AppContext:
    shown = view or model.views[-1]
    looks: dict[str, Any] = {"unhealthy": lambda: None, "unready": lambda: None} | settings
    return AppContext(view=lambda: shown, activity=model.activity, monotonic=lambda: model.mono, **looks)


@pytest.fixture
def app(model: Model) -> ASGIApp:
    return make_app(app_context(model))


# Metrics.


@pytest.mark.parametrize(
    ("accept", "form"),
    [("", Format.TEXT), ("*/*", Format.TEXT), ("text/html", Format.TEXT), (OPENMETRICS, Format.OPENMETRICS)],
)
@pytest.mark.parametrize("encoding", ["", "identity", "gzip", "gzip, deflate, br"])
def test_each_form_says_what_it_is(app: ASGIApp, accept: str, form: Format, encoding: str) -> None:
    reply = ask(app, Accept=accept, Accept_Encoding=encoding)
    assert reply.status == 200
    assert reply.headers["Content-Type"] == form.content_type
    assert reply.headers["Vary"] == "Accept, Accept-Encoding"
    assert int(reply.headers["Content-Length"]) == len(reply.body)
    assert reply.headers.get("Content-Encoding") == ("gzip" if "gzip" in encoding else None)
    assert reply.text.startswith("# HELP knock_bulk_operation_info ")
    assert reply.text.endswith("\n")
    assert reply.text.count("# EOF") == (form is Format.OPENMETRICS)
    assert "knock_exporter_build_info" in reply.text
    assert reply.text.count("\nknock_bulk_operation_rows_processed{") == 3


@pytest.mark.parametrize("accept", ["*/*", OPENMETRICS])
def test_a_compressed_answer_is_one_gzip_member(app: ASGIApp, accept: str) -> None:
    for _ in range(2):  # the second takes what the first has compressed
        body = ask(app, Accept=accept, Accept_Encoding="gzip").body
        reader = zlib.decompressobj(16 + zlib.MAX_WBITS)
        text = reader.decompress(body).decode()
        assert (reader.eof, reader.unused_data, reader.unconsumed_tail) == (True, b"", b"")
        assert text.count("\nknock_bulk_operation_rows_processed{") == 3
        assert "knock_exporter_build_info" in text


def test_the_size_is_told_before_compression(app: ASGIApp) -> None:
    for encoding in ("gzip", "identity"):
        size = len(ask(app, Accept_Encoding=encoding).text.encode())
        told = ask(app).text.partition("\nknock_exporter_exposition_size_bytes ")[2].split("\n")[0]
        assert float(told) == size


def test_the_tracker_hears_of_a_scrape_once_a_second_at_most(model: Model) -> None:
    heard: list[float] = []
    app = make_app(replace(app_context(model), scraped=heard.append))
    for model.mono in (5000.0, 5000.5, 5001.0, 5001.5, 5099.0):
        ask(app)
    ask(app, "/")
    assert heard == [5000.0, 5001.0, 5099.0]


def test_nothing_is_shown_before_the_first_view_but_headers(model: Model) -> None:
    text = ask(make_app(app_context(model, View()))).text
    assert "# TYPE knock_bulk_operation_info gauge\n" in text
    assert "\nknock_bulk_operation_info{" not in text


def test_head_has_the_headers_of_get(app: ASGIApp) -> None:
    reply = ask(app, method="HEAD")
    assert (reply.status, reply.body) == (200, b"")
    assert int(reply.headers["Content-Length"]) > 1000


class Watched(tuple[Any, ...]):
    """Rows of a view: count how often they are read, and let nobody read them while `gate` is shut."""

    __slots__ = ()
    gate = threading.Event()
    passed = 0

    def __getitem__(self, part: Any) -> Any:
        Watched.passed += 1
        assert Watched.gate.wait(10)
        return super().__getitem__(part)


def size_of(rows: Rows) -> int:
    return sum(len(line) for lines in rows for line in lines)


@pytest.fixture
def gated(model: Model) -> View:
    Watched.gate = threading.Event()
    Watched.passed = 0
    rows = model.views[-1].aggregates
    return View(aggregates=Watched(rows), size=size_of(rows))


async def many_at_once(app: ASGIApp, leaving: int = 0) -> list[Reply]:
    """Scrape ten times before the first answer can be made; as many readers leave meanwhile."""
    tasks = [asyncio.create_task(asked(app, Accept_Encoding="gzip")) for _ in range(10)]
    await asyncio.to_thread(until, lambda: Watched.passed, "the first answer is begun")
    for task in tasks[:leaving]:
        task.cancel()
    await asyncio.wait(tasks[:leaving] or tasks, timeout=0 if not leaving else None)
    Watched.gate.set()
    return await asyncio.gather(*tasks[leaving:])


def test_concurrent_scrapes_share_what_is_compressed(model: Model, gated: View) -> None:
    app = make_app(app_context(model, gated))
    replies = asyncio.run(many_at_once(app))
    assert {reply.status for reply in replies} == {200}
    together, Watched.passed = Watched.passed, 0
    ask(make_app(app_context(model, gated)), Accept_Encoding="gzip")
    assert together == Watched.passed


def test_readers_that_go_away_take_nothing_from_others(model: Model, gated: View) -> None:
    app = make_app(app_context(model, gated))
    replies = asyncio.run(many_at_once(app, leaving=3))
    assert [reply.status for reply in replies] == [200] * 7
    assert all("\nknock_bulk_operations_tracked_rows_processed{" in reply.text for reply in replies)


def test_a_new_view_is_shown_at_once(model: Model) -> None:
    views = [View(), model.views[-1]]
    made = make_app(AppContext(lambda: views[0], model.activity, lambda: None, lambda: None, lambda: model.mono))

    async def twice() -> tuple[Reply, Reply]:
        before = await asked(made, Accept_Encoding="gzip")
        del views[0]
        return before, await asked(made, Accept_Encoding="gzip")

    before, after = asyncio.run(twice())
    assert "\nknock_bulk_operation_up{" not in before.text
    assert "\nknock_bulk_operation_up{" in after.text


class Failing(tuple[Any, ...]):
    """Rows that cannot be read at first, as when memory runs out."""

    __slots__ = ()
    failures = 1

    def __getitem__(self, part: Any) -> Any:
        if Failing.failures:
            Failing.failures -= 1
            raise MemoryError
        return super().__getitem__(part)


def test_a_failure_is_not_kept(model: Model) -> None:
    app = make_app(app_context(model, View(aggregates=Failing(model.views[-1].aggregates))))

    async def twice() -> Reply:
        with pytest.raises(MemoryError):
            await asked(app, Accept_Encoding="gzip")
        return await asked(app, Accept_Encoding="gzip")

    assert asyncio.run(twice()).status == 200


# The other pages.


def test_the_landing_page_leads_everywhere(app: ASGIApp) -> None:
    reply = ask(app, "/")
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assert __version__ in reply.text
    for path in ("/metrics", "/-/healthy", "/-/ready"):
        assert f'href="{path}"' in reply.text
        assert ask(app, path).status == 200


def test_the_landing_page_escapes(model: Model) -> None:
    reply = ask(make_app(app_context(model, telemetry_path='/a"><script>&')), "/")
    assert "<script>" not in reply.text
    assert 'href="/a&#34;&gt;&lt;script&gt;&amp;"' in reply.text


@pytest.mark.parametrize("path", ["/m", "/knock/metrics", "/metrics.txt", "/~me/metrics"])
def test_the_metrics_stand_where_they_are_told_to(model: Model, path: str) -> None:
    app = make_app(app_context(model, telemetry_path=path))
    assert "knock_exporter_build_info" in ask(app, path).text
    assert f'href="{path}"' in ask(app, "/").text
    assert ask(app, "/metrics").status == 404


def test_the_metrics_may_take_the_place_of_the_landing_page(model: Model) -> None:
    app = make_app(app_context(model, telemetry_path="/"))
    assert "knock_exporter_build_info" in ask(app, "/").text
    assert ask(app, "/-/ready").status == 200


@pytest.mark.parametrize(
    ("path", "good"), [("/-/healthy", "knock-exporter is healthy.\n"), ("/-/ready", "knock-exporter is ready.\n")]
)
def test_the_verdicts(model: Model, path: str, good: str) -> None:
    bad = make_app(app_context(model, unhealthy=lambda: "no step for 60 s: tracker", unready=lambda: "ending"))
    fine = ask(make_app(app_context(model)), path)
    assert (fine.status, fine.text) == (200, good)
    assert fine.headers["Content-Type"].startswith("text/plain")
    problem = ask(bad, path)
    assert problem.status == 503
    assert problem.text in ("no step for 60 s: tracker\n", "ending\n")
    assert ask(bad, "/metrics").status == 200


@pytest.mark.parametrize("path", ["/nope", "/metrics/x", "/-/", "/-/quit", "/api/v1/operations/production", "/%00"])
def test_what_is_not_there(app: ASGIApp, path: str) -> None:
    assert ask(app, path).status == 404


@pytest.mark.parametrize("path", ["/", "/metrics", "/-/healthy", "/-/ready"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_what_is_not_allowed(app: ASGIApp, path: str, method: str) -> None:
    reply = ask(app, path, method)
    assert reply.status == 405
    assert set(reply.headers["Allow"].split(", ")) == {"GET", "HEAD"}


# The server.


def over_http(
    address: tuple[str, int], method: str = "GET", path: str = "/metrics"
) -> tuple[http.client.HTTPResponse, bytes]:
    with closing(http.client.HTTPConnection(*address, timeout=5)) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer, answer.read()


def test_it_serves_over_a_socket(app: ASGIApp) -> None:
    with served(app) as address:
        answer, body = over_http(address)
        assert int(answer.headers["Content-Length"]) == len(body)
        assert answer.headers["Server"] is None
        head, nothing = over_http(address, "HEAD")
        assert nothing == b""
        assert abs(int(head.headers["Content-Length"]) - len(body)) < 100  # the exporter's own numbers grow


ROUTES = [("GET", "/"), ("GET", "/metrics"), ("GET", "/-/healthy"), ("GET", "/-/ready"), ("GET", "/nope")]
ROUTES += [("POST", "/-/reload"), ("PUT", "/-/reload"), ("POST", "/metrics"), ("GET", "/api/v1/operations")]
ROUTES += [("GET", "/api/v1/environments"), ("DELETE", f"/api/v1/operations/production/{ids(1)[0]}")]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_body_that_a_route_does_not_read_changes_no_answer(method: str, path: str) -> None:
    app = FakeService().app(reload=lambda reply: reply(None, False))  # noqa: FBT003 - done
    statuses = []
    with served(app) as address:
        for sent in (b"", b"Content-Length: 0\r\n\r\n", b"Content-Length: 9\r\n\r\nab", b"Content-Length: 2\r\n\r\nab"):
            with closing(socket.create_connection(address, timeout=5)) as connection:
                head = f"{method} {path} HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
                connection.sendall(head + (sent or b"\r\n"))
                statuses.append(connection.recv(12))
    assert len(set(statuses)) == 1


@pytest.mark.parametrize("target", ["http://exporter:10187/metrics", "HTTP://exporter/metrics"])
@pytest.mark.parametrize("form", [make_app, make_health_app])
def test_a_request_through_a_forward_proxy_is_served(
    model: Model, target: str, form: Callable[[AppContext], ASGIApp]
) -> None:
    path = target if form is make_app else target.replace("/metrics", "/-/ready")
    with served(form(app_context(model))) as address:
        answer, _body = over_http(address, path=path)
        assert answer.status == 200


@pytest.mark.parametrize("path", ["//api/v1/operations", "/api/v2", "/api/"])
def test_a_program_is_told_in_json_what_is_not_there(app: ASGIApp, path: str) -> None:
    with served(app) as address:
        answer, body = over_http(address, path=path)
    assert (answer.status, answer.headers["Content-Type"]) == (404, "application/problem+json")
    assert json.loads(body)["status"] == 404


def test_a_reader_that_goes_away_does_not_break_others(model: Model) -> None:
    rows = model.views[-1].aggregates * 400
    app = make_app(app_context(model, View(aggregates=rows, size=size_of(rows))))
    with served(app) as address:
        for _ in range(3):
            with closing(socket.create_connection(address)) as reader:
                reader.sendall(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")
                assert reader.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
        answer, body = over_http(address)
        assert (answer.status, len(body)) == (200, int(answer.headers["Content-Length"]))
        assert len(body) > 1_000_000


def test_what_is_not_http_breaks_nothing(app: ASGIApp) -> None:
    with served(app) as address:
        for garbage in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"\x00" * 70_000, b"GET /" + b"a" * 100_000):
            with closing(socket.create_connection(address)) as reader:
                reader.sendall(garbage)
                if len(garbage) < 100:  # of more the rest is on its way, and takes the answer away
                    assert reader.recv(12) == b"HTTP/1.1 400"
        assert over_http(address, path="/-/ready")[0].status == 200


@pytest.mark.alone(one_core=True)
def test_an_idle_server_stops_at_once(app: ASGIApp, in_time: InTime) -> None:
    listening = bind("127.0.0.1", 0)
    server = WebServer(app, [listening], pytest.fail)
    server.start()
    over_http(listening.getsockname(), path="/-/ready")
    with in_time(0.5):
        server.stop()


def test_a_server_that_ends_by_itself_is_told(app: ASGIApp) -> None:
    told: list[str] = []
    listening = bind("127.0.0.1", 0)
    listening.close()
    server = WebServer(app, [listening], told.append)
    server.start()
    until(lambda: told, "told")
    assert told == ["web server ended"]


HINT = "choose another address with --web.listen-address"


def test_an_address_that_cannot_be_had_is_named() -> None:
    with closing(bind("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            StartError, match=rf"^cannot listen on 127.0.0.1:{port}: Address already in use \({HINT}\)$"
        ):
            bind("127.0.0.1", port)
    with pytest.raises(StartError, match=r"^cannot listen on 192\.0\.2\.1:80: Cannot assign requested address \("):
        bind("192.0.2.1", 80)
    with pytest.raises(StartError, match=r"^cannot listen on \[::1%nope\]:80: "):
        bind("::1%nope", 80)
    with pytest.raises(StartError, match=r"^cannot listen on a{64}\.example:80: "):
        bind("a" * 64 + ".example", 80)
