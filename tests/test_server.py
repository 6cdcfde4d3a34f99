"""The server on real sockets: who is let in, how long each phase may take, which connection goes at the cap."""

from __future__ import annotations

import asyncio
import errno
import gc
import http.client
import socket
import ssl
import struct
import threading
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from programs import until
from starlette.applications import Starlette
from structlog.testing import capture_logs
from timing import BUSY_SECONDS
from uvicorn.protocols.http.h11_impl import H11Protocol

from exporter.servers import bind
from exporter.web.lifecycle import reload_route
from exporter.web.server import ConnectionRules, WebServer
from exporter.web.tls import ServerContext

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import trustme
    from starlette.types import ASGIApp, Receive, Scope, Send

    Address = tuple[str, int]

SECONDS = 5.0
SWEEP_SECONDS = 0.1
GET = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
LARGE = 50_000_000  # bytes: more than the kernel takes from one who does not read


# The server.


class App:
    """Answers with a large body, after the body of the request; keeps who asked."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen.append(scope["client"])
        while (await receive()).get("more_body", False):
            pass
        body = b"x" * (LARGE if scope["path"] == "/large" else 2)
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class Serving:
    """A server on a free port, and what it refused, by reason."""

    def __init__(self, app: ASGIApp, rules: ConnectionRules) -> None:
        self.refused: list[str] = []
        listening = bind("127.0.0.1", 0)
        self.address: Address = listening.getsockname()
        self.server = WebServer(app, [listening], pytest.fail, replace(rules, refused=self.refused.append))


@contextmanager
def serving(app: ASGIApp | None = None, **rules: Any) -> Iterator[Serving]:
    made = Serving(app or App(), ConnectionRules(**{"sweep": SWEEP_SECONDS} | rules))
    made.server.start()
    try:
        yield made
    finally:
        made.server.stop()


def connect(to: Serving, text: bytes = b"") -> socket.socket:
    connection = socket.create_connection(to.address, timeout=SECONDS)
    if text:  # to send nothing would meet the reset of a server that has turned it away already
        connection.sendall(text)
    return connection


def closed(connection: socket.socket) -> bool:
    """Wait until the other side closes; False: it does not."""
    try:
        while connection.recv(1 << 20):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def served(connection: socket.socket) -> bool:
    connection.sendall(GET)
    answer = b""
    while not answer.endswith(b"\r\n\r\nxx"):
        if not (got := connection.recv(1000)):
            return False
        answer += got
    return answer.startswith(b"HTTP/1.1 200 OK\r\n")


BODY = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\nab"


@pytest.mark.parametrize("text", [b"", b"GET / HTT", BODY, GET + b"GET"])
def test_who_takes_too_long_is_closed(text: bytes) -> None:
    assert ConnectionRules().head == 10
    with serving(head=0.1, answer=0.1, idle=10) as server, closing(connect(server, text)) as connection:
        assert closed(connection)
        until(lambda: server.refused == ["timeout"], "counted")


def test_who_sends_no_other_request_is_closed() -> None:
    with serving(idle=0.1) as server, closing(connect(server, GET)) as connection:
        assert closed(connection)
        assert server.refused == []


def trickle(connection: socket.socket) -> bool:
    """Send a request byte by byte; False: it was closed in the middle."""
    connection.settimeout(0.05)
    try:
        for byte in b"GET /" + b"a" * 1000:
            connection.sendall(bytes([byte]))
            with suppress(TimeoutError):
                if not connection.recv(1):
                    return False
    except ConnectionError:
        return False
    return True


def test_a_byte_now_and_then_gives_no_more_time() -> None:
    with serving(head=0.5) as server, closing(connect(server)) as connection:
        assert not trickle(connection)
        until(lambda: server.refused == ["timeout"], "counted")


@pytest.mark.parametrize(
    "body", [b"", b"Content-Length: 0\r\n", b"Content-Length: 9\r\n", b"Transfer-Encoding: chunked\r\n"]
)
def test_an_answer_that_takes_its_time_is_not_cut_for_a_body_that_nobody_reads(body: bytes) -> None:
    replies: list[Callable[[str | None, bool], None]] = []
    late = Starlette(routes=[reload_route("/", replies.append, seconds=1.5)])  # longer than both and two sweeps
    with (
        serving(late, head=1.0, idle=0.1) as server,
        closing(connect(server, b"POST / HTTP/1.1\r\nHost: here\r\n" + body + b"\r\n")) as connection,
    ):
        assert connection.recv(12) == b"HTTP/1.1 503"
        assert len(replies) == 1


def not_found(connection: socket.socket) -> bool:
    """Wait for the whole answer of an application without routes."""
    answer = b""
    while not answer.endswith(b"\r\n\r\nNot Found"):
        answer += connection.recv(1000)
    return answer.startswith(b"HTTP/1.1 404 Not Found\r\n")


UNREAD = (b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 6\r\n\r\n", b"abc", b"def")
UNREAD_CHUNKS = (
    b"POST / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"6\r\nabcdef\r\n",
    b"0\r\n\r\n",
)


@pytest.mark.parametrize("parts", [UNREAD, UNREAD_CHUNKS])
def test_the_rest_of_a_body_that_was_answered_is_no_new_request(parts: tuple[bytes, ...]) -> None:
    with serving(Starlette(), head=1.0, idle=30.0) as server, closing(connect(server, parts[0])) as connection:
        assert not_found(connection)
        for each in parts[1:]:
            connection.sendall(each)
        began = time.monotonic()
        until(lambda: time.monotonic() - began > 1.0 + 3 * SWEEP_SECONDS, "the time of a head is over")
        connection.sendall(GET)
        assert not_found(connection)
        assert server.refused == []


@pytest.mark.parametrize("text", [b"zz\r\n", b"0\r\n" + b"a" * 100_000])
def test_a_body_that_is_wrong_after_its_answer_ends_the_connection_alone(
    text: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(Starlette()) as server, closing(connect(server, UNREAD_CHUNKS[0])) as connection:
        assert not_found(connection)
        connection.sendall(text)
        assert closed(connection)
        assert server.refused == []
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


def test_who_does_not_take_the_answer_is_closed() -> None:
    assert ConnectionRules().answer == 60
    with serving(answer=0.1) as server, closing(connect(server, GET.replace(b"/", b"/large", 1))) as connection:
        assert connection.recv(10)
        until(lambda: server.refused == ["timeout"], "counted")
        assert closed(connection)


def test_who_takes_the_answer_in_time_gets_all_of_it_and_the_next_one() -> None:
    with serving() as server, closing(http.client.HTTPConnection(*server.address, timeout=SECONDS)) as connection:
        for _ in range(2):
            connection.request("GET", "/large")
            assert len(connection.getresponse().read()) == LARGE


@pytest.mark.parametrize(
    "where", [b"GET /%b HTTP/1.1\r\nHost: here\r\n\r\n", b"GET / HTTP/1.1\r\nHost: here\r\nX: %b\r\n\r\n"]
)
@pytest.mark.parametrize("size", [17_000, 100_000])
@pytest.mark.parametrize("missing", [0, 4])  # bytes of its end
def test_a_head_that_is_too_large_is_refused(where: bytes, size: int, missing: int) -> None:
    head = where % (b"a" * size)
    with serving() as server, closing(connect(server, head[: len(head) - missing])) as connection:
        assert connection.recv(12) == b"HTTP/1.1 431"
        assert closed(connection)
        assert server.refused == ["too_large"]


def test_a_request_of_two_lengths_is_refused_with_what_follows() -> None:
    head = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    with serving() as server, closing(connect(server, head + b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")) as connection:
        answers = b""
        while piece := connection.recv(65536):
            answers += piece
    assert answers.startswith(b"HTTP/1.1 400")
    assert answers.count(b"HTTP/1.1") == 1


# The cap.


def test_at_the_cap_the_one_that_moved_no_byte_for_longest_makes_room() -> None:
    with (
        serving(connections=2, quiet=0.0) as server,
        closing(connect(server)) as first,
        closing(connect(server)) as second,
    ):
        assert served(first)
        with closing(connect(server)) as third:
            assert closed(second)
            assert served(third)
            assert served(first)
        assert server.refused == ["connections"]


def test_it_goes_whatever_its_phase() -> None:
    with (
        serving(connections=1, quiet=0.0) as server,
        closing(connect(server, GET.replace(b"/", b"/large", 1))) as reader,
    ):
        assert reader.recv(10)
        with closing(connect(server)) as newcomer:
            assert served(newcomer)
            assert closed(reader)


def test_a_reader_that_goes_on_stays() -> None:
    with (
        serving(connections=2, quiet=0.0) as server,
        closing(connect(server, GET.replace(b"/", b"/large", 1))) as reader,
    ):
        with closing(connect(server)) as silent:
            taken = len(reader.recv(10))
            while taken < LARGE // 2:
                taken += len(reader.recv(1 << 20))
            with closing(connect(server)) as newcomer:
                assert served(newcomer)
                assert closed(silent)
        while taken < LARGE and (got := len(reader.recv(1 << 20))):
            taken += got
        assert taken >= LARGE


def test_while_all_move_a_newcomer_is_refused() -> None:
    with serving(connections=1, quiet=60.0) as server, closing(connect(server)) as first:
        assert served(first)
        with closing(connect(server)) as second:
            assert closed(second)
        assert served(first)
        assert server.refused == ["connections"]


def test_who_goes_by_itself_makes_room() -> None:
    with serving(connections=1, quiet=60.0) as server:
        for _ in range(3):
            with closing(connect(server, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))) as connection:
                assert closed(connection)
        assert server.refused == []


def test_the_cap_leaves_descriptors_for_the_rest() -> None:
    rules = ConnectionRules()
    assert rules.within(20_000).connections == rules.within(-1).connections == 256
    assert rules.within(200).connections == 100


class WithoutDescriptors(socket.socket):
    """A listening socket of a process that has no file descriptors left, for so many accepts."""

    failures = 0

    def accept(self) -> tuple[socket.socket, Any]:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


def test_without_descriptors_it_waits_and_accepts_again() -> None:
    listening = WithoutDescriptors(fileno=bind("127.0.0.1", 0).detach())
    listening.failures = 3
    server = WebServer(App(), [listening], pytest.fail)
    with capture_logs() as logs:
        server.start()
        try:
            with closing(socket.create_connection(listening.getsockname(), timeout=BUSY_SECONDS)) as connection:
                assert served(connection)
        finally:
            server.stop()
    assert listening.failures == 0
    assert logs == [
        {
            "event": "cannot accept connections, trying again",
            "log_level": "warning",
            "error": "Too many open files",
        }
    ]


# TLS.


def context_of(authority: trustme.CA, *, name: str = "localhost", clients: bool = False) -> ServerContext:
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    if clients:
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def over_tls(
    authority: trustme.CA, to: Serving, name: str = "localhost", *, known: bool = False, names: Sequence[str] = ()
) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if known:
        authority.issue_cert(*(names or ["prometheus"])).configure_cert(context)
    return context.wrap_socket(socket.create_connection(to.address, timeout=SECONDS), server_hostname=name)


def test_each_connection_takes_the_active_context(authority: trustme.CA) -> None:
    contexts = [context_of(authority)]
    with serving(tls=lambda: contexts[-1]) as server, closing(over_tls(authority, server)) as before:
        contexts.append(context_of(authority, name="renewed.example"))
        with closing(over_tls(authority, server, "renewed.example")) as after:
            assert served(after)
            assert served(before)


def test_a_kept_plain_connection_is_not_served_once_tls_is_switched_on(authority: trustme.CA) -> None:
    contexts: list[ssl.SSLContext | None] = [None]
    with serving(tls=lambda: contexts[-1]) as server, closing(connect(server)) as kept:
        assert served(kept)
        contexts.append(context_of(authority))
        kept.sendall(GET)
        assert kept.recv(1000).startswith(b"HTTP/1.1 400 ")
        assert closed(kept)


def test_a_kept_plain_connection_is_closed_once_tls_is_switched_on(authority: trustme.CA) -> None:
    contexts: list[ssl.SSLContext | None] = [None]
    with serving(tls=lambda: contexts[-1]) as server, closing(connect(server)) as kept:
        assert served(kept)
        contexts.append(context_of(authority))
        assert closed(kept)


@pytest.mark.parametrize(
    ("names", "allowed"),
    [
        (["prometheus"], True),
        (["a.example", "scraper@example.org"], True),
        (["192.0.2.1", "::1"], True),
        (["prometheus.example", "xprometheus", "2001:db8::2"], False),
    ],
)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_only_certificates_with_an_allowed_name_are_let_in(
    authority: trustme.CA,
    names: list[str],
    allowed: bool,  # noqa: FBT001 - pytest's
    version: ssl.TLSVersion,
) -> None:
    app, context = App(), context_of(authority, clients=True)
    context.maximum_version = version
    context.client_allowed_sans = frozenset({"prometheus", "scraper@example.org", "::1"})
    with serving(app, tls=lambda: context) as server:
        try:
            with closing(over_tls(authority, server, known=True, names=names)) as connection:
                assert served(connection) is allowed
        except OSError:  # closed in the middle
            assert not allowed
        assert bool(app.seen) is allowed
        assert server.refused == [] if allowed else ["tls"]
        with closing(over_tls(authority, server)) as connection:
            assert served(connection), "one without a certificate is asked for by client_auth_type alone"


@pytest.mark.parametrize("text", [b"", b"\x16", b"\x16\x03\x01\x00\x05"])
def test_a_handshake_has_its_time(authority: trustme.CA, text: bytes) -> None:
    context = context_of(authority)
    with (
        serving(head=0.1, tls=lambda: context) as server,
        closing(connect(server, text)) as connection,
    ):
        assert closed(connection)


@pytest.mark.parametrize("text", [b"", b"\x16"])
def test_who_closes_before_a_handshake_is_not_refused(authority: trustme.CA, text: bytes) -> None:
    context = context_of(authority)
    with serving(tls=lambda: context) as server:
        connect(server, text).close()
        with closing(over_tls(authority, server)) as connection:
            assert served(connection)
        assert server.refused == []


def test_who_does_not_speak_tls_is_told(authority: trustme.CA, caplog: pytest.LogCaptureFixture) -> None:
    context = context_of(authority)
    with serving(tls=lambda: context) as server:
        with closing(connect(server, GET)) as connection:
            assert connection.recv(1000).startswith(b"HTTP/1.0 400 Bad Request\r\n")
        with closing(connect(server, b"\x16 no handshake")) as connection:
            assert closed(connection)
        with closing(over_tls(authority, server)) as connection:
            assert served(connection)
        assert server.refused == ["tls", "tls"]
    assert not [each for each in caplog.records if each.levelname in ("WARNING", "ERROR")]


def held(app: ASGIApp) -> int:
    gc.collect()
    return sum(isinstance(each, H11Protocol) and each.config.app is app for each in gc.get_objects())


def test_nothing_is_held_of_connections_that_broke(authority: trustme.CA) -> None:
    context, app = context_of(authority), App()
    looked_at = threading.Event()

    def tls() -> ssl.SSLContext:  # asked for by whom is let in, and by each look at all that are open
        looked_at.set()
        return context

    with serving(app, tls=tls, sweep=0.001) as server:
        for _ in range(5):
            connect(server).close()
            with closing(over_tls(authority, server)) as connection:
                assert served(connection)
                for _ in range(2):  # the first may have begun before
                    looked_at.clear()
                    assert looked_at.wait(BUSY_SECONDS)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        until(lambda: held(app) == 0, "freed")


# What is relied on.


def test_uvicorn_is_as_the_protocol_takes_it_to_be() -> None:
    """Named in exporter/web/server.py: look there when a new uvicorn fails here."""
    config = uvicorn.Config(App(), loop="asyncio", http="h11", ws="none", lifespan="off", log_config=None)
    config.load()
    server = uvicorn.Server(config)
    assert {"startup", "shutdown", "should_exit", "server_state"} <= set(dir(server))
    overridden = {"connection_made", "connection_lost", "data_received", "resume_writing", "send_400_response"}
    assert overridden <= set(vars(H11Protocol))

    async def made() -> H11Protocol:
        return H11Protocol(config, server.server_state, {})

    assert asyncio.run(made()).app is config.loaded_app
