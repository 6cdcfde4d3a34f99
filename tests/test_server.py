"""The listener and the protocol behind it: who is let in, how long each may take, which goes when there is no room."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from exporter.web.connections import (
    Connection,
    ConnectionLimits,
    Phase,
    connection_of,
    expendable,
    expendable_of_all,
    overdue,
    party,
)
from exporter.web.lifecycle import reload_route
from exporter.web.server import WebServer, bind
from exporter.web.tls import ServerContext

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import trustme
    from starlette.types import ASGIApp, Receive, Scope, Send

    Address = tuple[str, int]

SECONDS = 5.0
LIMITS = ConnectionLimits()
GET = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
LARGE = 50_000_000  # bytes: more than the kernel takes from one who does not read


# Who goes.


def known(phase: Phase, since: float, **more: Any) -> Connection:
    return Connection("192.0.2.1", phase, since, **more)


@pytest.mark.parametrize("phase", Phase)
def test_each_phase_has_its_time(phase: Phase) -> None:
    limit = {Phase.HANDSHAKE: 5, Phase.HEAD: 10, Phase.BODY: 15, Phase.ANSWER: 60, Phase.IDLE: 75}[phase]
    assert not overdue(known(phase, 100.0), 100.0 + limit - 0.01, LIMITS)
    assert overdue(known(phase, 100.0), 100.0 + limit, LIMITS)


def test_an_answer_of_which_nothing_is_taken_has_less() -> None:
    connection = known(Phase.ANSWER, 100.0)
    connection.stall(105.0)
    assert not overdue(connection, 124.9, LIMITS)
    assert overdue(connection, 125.0, LIMITS)
    connection.flow(124.9)
    assert not overdue(connection, 125.0, LIMITS)


def test_short_stalls_add_up() -> None:
    connection = known(Phase.ANSWER, 100.0)
    for began in (100.0, 101.0, 102.0):
        connection.stall(began)
        connection.flow(began + 0.25)
    assert connection.held(200.0) == pytest.approx(0.75)
    connection.enter(Phase.IDLE, 200.0)
    assert connection.held(300.0) == 0


def test_who_sends_nothing_for_long_goes_first() -> None:
    silent, head = known(Phase.HEAD, 1.0), known(Phase.HEAD, 9.9)
    answers = [known(Phase.ANSWER, 0.0, stalled_since=0.0) for _ in range(5)]
    assert expendable([*answers, head, silent], 10.0, young=1.0) is silent


def test_a_flood_of_requests_closes_no_young_connection() -> None:
    young = known(Phase.HEAD, 9.99)
    stalled, moving = known(Phase.ANSWER, 9.0, stalled_since=9.5), known(Phase.ANSWER, 1.0)
    assert expendable([young, stalled, moving], 10.0, young=1.0) is stalled
    assert expendable([young, moving], 10.0, young=1.0) is young  # half of them wait


def test_a_flood_of_connections_cuts_no_answer() -> None:
    young = [known(Phase.HEAD, 9.9 + number / 100) for number in range(3)]
    assert expendable([known(Phase.ANSWER, 9.0), *young], 10.0, young=1.0) is young[0]


def test_who_has_proven_to_read_stays_longer_unless_it_stalls() -> None:
    new, old = known(Phase.ANSWER, 9.9), known(Phase.ANSWER, 9.0, proven=True)
    assert expendable([old, new], 10.0, young=1.0) is new
    old.stall(9.5)
    assert expendable([old, new], 10.0, young=1.0) is old


def test_the_trusted_go_last_and_never_while_they_are_answered() -> None:
    answered, idle = known(Phase.ANSWER, 0.0, trusted=True, stalled_since=0.0), known(Phase.IDLE, 0.0, trusted=True)
    silent = known(Phase.HEAD, 5.0)
    assert expendable([answered, idle, silent], 10.0, young=1.0) is silent
    assert expendable([answered, idle], 10.0, young=1.0) is idle
    assert expendable([answered], 10.0, young=1.0) is None


def test_the_address_with_most_connections_gives_one() -> None:
    many = {known(Phase.HEAD, 9.0 + number / 100) for number in range(3)}
    few = {known(Phase.HEAD, 1.0)}
    found = expendable_of_all({"192.0.2.1": few, "192.0.2.2": many}, 10.0, young=1.0)
    assert found in many
    trusted = {known(Phase.ANSWER, 1.0, trusted=True) for _ in range(3)}
    assert expendable_of_all({"192.0.2.1": few, "192.0.2.2": trusted}, 10.0, young=1.0) in few
    assert expendable_of_all({"192.0.2.2": trusted}, 10.0, young=1.0) is None


@pytest.mark.parametrize(
    ("host", "whom"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_whom_an_address_stands_for(host: str, whom: str) -> None:
    assert party(host) == whom


def test_the_limits_leave_descriptors_for_the_rest() -> None:
    assert LIMITS.within(20_000) is LIMITS
    assert LIMITS.within(256) == replace(LIMITS, connections=128, per_address=128)


# The server.


class App:
    """Answers with a large body, after the body of the request; keeps what it saw."""

    def __init__(self) -> None:
        self.seen: list[Connection] = []
        self.trust = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = connection_of(scope)
        connection.trusted |= self.trust
        self.seen.append(connection)
        while (await receive()).get("more_body", False):
            pass
        body = b"x" * (LARGE if scope["path"] == "/large" else 2)
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


@contextmanager
def serving(
    limits: ConnectionLimits = LIMITS,
    tls: Callable[[], ssl.SSLContext | None] = lambda: None,
    app: ASGIApp | None = None,
) -> Iterator[Address]:
    listening = bind("127.0.0.1", 0)
    address = listening.getsockname()
    server = WebServer(app or App(), [listening], pytest.fail, tls, limits)
    server.start()
    try:
        yield address
    finally:
        server.stop()


def connect(address: Address, text: bytes = b"") -> socket.socket:
    connection = socket.create_connection(address, timeout=SECONDS)
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


@pytest.mark.parametrize(
    "text", [b"", b"GET / HTT", b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\nab", GET, GET + b"GET"]
)
def test_who_takes_too_long_is_closed(text: bytes) -> None:
    short = ConnectionLimits(head=0.1, request=0.1, idle=0.1)
    with serving(short) as address, closing(connect(address, text)) as connection:
        assert closed(connection)


@pytest.mark.parametrize(
    "body", [b"", b"Content-Length: 0\r\n", b"Content-Length: 9\r\n", b"Transfer-Encoding: chunked\r\n"]
)
def test_an_answer_that_takes_its_time_is_not_cut_for_a_body_that_nobody_reads(body: bytes) -> None:
    replies: list[Callable[[str | None, bool], None]] = []
    late = Starlette(routes=[reload_route("/", replies.append, seconds=2.5)])  # longer than two sweeps of the listener
    with (
        serving(ConnectionLimits(request=0.1), app=late) as address,
        closing(connect(address, b"POST / HTTP/1.1\r\nHost: here\r\n" + body + b"\r\n")) as connection,
    ):
        assert connection.recv(12) == b"HTTP/1.1 503"
        assert len(replies) == 1


@pytest.mark.parametrize("short", [ConnectionLimits(stall=0.1), ConnectionLimits(response=0.1)])
def test_who_does_not_take_the_answer_is_closed(short: ConnectionLimits) -> None:
    app = App()
    with serving(short, app=app) as address, closing(connect(address, GET.replace(b"/", b"/large", 1))) as connection:
        lost = threading.Event()
        assert connection.recv(10)
        app.seen[0].on_lost = lost.set
        assert lost.wait(SECONDS)


@pytest.mark.parametrize(
    "where", [b"GET /%b HTTP/1.1\r\nHost: here\r\n\r\n", b"GET / HTTP/1.1\r\nHost: here\r\nX: %b\r\n\r\n"]
)
@pytest.mark.parametrize("size", [17_000, 100_000])
def test_a_head_that_is_too_large_is_refused(where: bytes, size: int) -> None:
    with serving() as address, closing(connect(address, where % (b"a" * size))) as connection:
        assert connection.recv(12) in (b"HTTP/1.1 431", b"HTTP/1.1 400")
        assert closed(connection)


def test_at_the_limit_the_oldest_that_sends_nothing_goes() -> None:
    with (
        serving(ConnectionLimits(per_address=2)) as address,
        closing(connect(address)) as first,
        closing(connect(address)) as second,
        closing(connect(address)) as third,
    ):
        assert closed(first)
        assert served(third)
        assert served(second)


def test_in_all_there_are_no_more_than_the_limit() -> None:
    with (
        serving(ConnectionLimits(connections=1)) as address,
        closing(connect(address)) as first,
        closing(connect(address)) as second,
    ):
        assert closed(first)
        assert served(second)


def test_who_is_trusted_and_answered_stays() -> None:
    app = App()
    app.trust = True
    large = GET.replace(b"/", b"/large", 1)
    with serving(ConnectionLimits(per_address=1), app=app) as address, closing(connect(address, large)) as first:
        taken = len(first.recv(10))
        with closing(connect(address)) as second:
            assert closed(second)
        while taken < LARGE and (got := len(first.recv(1 << 20))):
            taken += got
        assert taken >= LARGE


def test_the_connection_goes_through_its_phases() -> None:
    app = App()
    with serving(app=app) as address, closing(connect(address)) as connection:
        assert served(connection)
        assert served(connection)
        first, second = app.seen
        assert first is second
        assert (first.address, first.trusted) == ("127.0.0.1", False)


# TLS.


def context_of(authority: trustme.CA, *, name: str = "localhost", clients: bool = False) -> ServerContext:
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    if clients:
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def over_tls(
    authority: trustme.CA, address: Address, name: str = "localhost", *, known: bool = False, names: Sequence[str] = ()
) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if known:
        authority.issue_cert(*(names or ["prometheus"])).configure_cert(context)
    return context.wrap_socket(socket.create_connection(address, timeout=SECONDS), server_hostname=name)


def test_each_connection_takes_the_active_context(authority: trustme.CA) -> None:
    contexts = [context_of(authority)]
    with serving(tls=lambda: contexts[-1]) as address, closing(over_tls(authority, address)) as before:
        contexts.append(context_of(authority, name="renewed.example"))
        with closing(over_tls(authority, address, "renewed.example")) as after:
            assert served(after)
            assert served(before)


def test_a_kept_plain_connection_is_not_served_once_tls_is_switched_on(authority: trustme.CA) -> None:
    contexts: list[ssl.SSLContext | None] = [None]
    with serving(tls=lambda: contexts[-1]) as address, closing(connect(address)) as kept:
        assert served(kept)
        contexts.append(context_of(authority))
        kept.sendall(GET)
        assert kept.recv(1000).startswith(b"HTTP/1.1 400 ")
        assert closed(kept)


def test_a_kept_plain_connection_is_closed_once_tls_is_switched_on(authority: trustme.CA) -> None:
    contexts: list[ssl.SSLContext | None] = [None]
    with serving(tls=lambda: contexts[-1]) as address, closing(connect(address)) as kept:
        assert served(kept)
        contexts.append(context_of(authority))
        assert closed(kept)


@pytest.mark.parametrize("known", [True, False])
def test_a_verified_client_certificate_is_trusted(authority: trustme.CA, known: bool) -> None:  # noqa: FBT001 - pytest's
    app, context = App(), context_of(authority, clients=True)
    with serving(tls=lambda: context, app=app) as address:
        with closing(over_tls(authority, address, known=known)) as connection:
            assert served(connection)
        assert app.seen[0].trusted is known


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
    with serving(tls=lambda: context, app=app) as address:
        try:
            with closing(over_tls(authority, address, known=True, names=names)) as connection:
                assert served(connection) is allowed
        except OSError:  # closed in the middle
            assert not allowed
        assert bool(app.seen) is allowed
        with closing(over_tls(authority, address)) as connection:
            assert served(connection), "one without a certificate is asked for by client_auth_type alone"


@pytest.mark.parametrize("text", [b"", b"\x16", b"\x16\x03\x01\x00\x05"])
def test_a_handshake_has_its_time(authority: trustme.CA, text: bytes) -> None:
    context = context_of(authority)
    with (
        serving(ConnectionLimits(handshake=0.1), tls=lambda: context) as address,
        closing(connect(address, text)) as connection,
    ):
        assert closed(connection)


def test_who_does_not_speak_tls_is_told(authority: trustme.CA, caplog: pytest.LogCaptureFixture) -> None:
    context = context_of(authority)
    with serving(tls=lambda: context) as address:
        with closing(connect(address, GET)) as connection:
            assert connection.recv(1000).startswith(b"HTTP/1.0 400 Bad Request\r\n")
        with closing(connect(address, b"\x16 no handshake")) as connection:
            assert closed(connection)
        with closing(over_tls(authority, address)) as connection:
            assert served(connection)
    assert not [each for each in caplog.records if each.levelname in ("WARNING", "ERROR")]


# What is relied on.


def test_uvicorn_is_as_the_protocol_takes_it_to_be() -> None:
    """Named in exporter/web/protocol.py and server.py: look there when a new uvicorn fails here."""
    config = uvicorn.Config(App(), loop="asyncio", http="h11", ws="none", lifespan="off", log_config=None)
    config.load()
    server = uvicorn.Server(config)
    assert {"startup", "shutdown", "should_exit", "server_state"} <= set(dir(server))
    overridden = {"connection_made", "connection_lost", "data_received", "pause_writing", "resume_writing"}
    assert overridden <= set(vars(H11Protocol))

    async def made() -> H11Protocol:
        return H11Protocol(config, server.server_state, {})

    assert asyncio.run(made()).app is config.loaded_app
