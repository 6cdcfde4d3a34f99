"""Floods against the real daemon with 10,000 operations: each delays scrapes by 3 s and costs 100 MB at most.

A flood runs in a process of its own, comes from the scrape's own address, and is bounded in time and in number: there
are fewer new connections a second than the port may have open, which is what it promises to withstand.
"""

from __future__ import annotations

import asyncio
import http.client
import multiprocessing
import os
import resource
import socket
import ssl
import statistics
import time
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import pytest
import trustme
from pages import Place, Shown, document, ids, serve
from programs import COMMAND, Starter
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from exporter.servers import bind
from exporter.simulator import Simulator, World
from exporter.web.server import ConnectionRules, WebServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from programs import Exporter

    Address = tuple[str, int]
    Client = Callable[[socket.socket], Awaitable[None]]

pytestmark = [pytest.mark.e2e, pytest.mark.alone]

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])  # else each flood begins with a second of imports
OPERATIONS = 10_000
FLOOD_SECONDS = 3.0
CONNECTS_PER_SECOND = 200  # after all have connected at once
REQUESTS = 20_000
PAUSE_SECONDS = 0.05
DELAY_SECONDS = 3.0  # one until the first ones of a flood may be closed, and two for the work
PROBE_SECONDS = 1.0
PATIENCE_SECONDS = 10.0
COST_BYTES = 100_000_000
PLAIN = b"GET /metrics HTTP/1.1\r\nHost: here\r\nAccept-Encoding: identity\r\n\r\n"
GZIP = PLAIN.replace(b"identity", b"gzip")


# The floods: what one of their connections does.


async def _say(connection: socket.socket, text: bytes) -> None:
    """Say something, and wait until the other side closes."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(connection, text)
    await loop.sock_recv(connection, 1)


async def silent(connection: socket.socket) -> None:
    await _say(connection, b"")


async def client_hello(connection: socket.socket) -> None:
    """Begin a TLS handshake, and say no more."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        _TLS.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(connection, outgoing.read())
    while await loop.sock_recv(connection, 4096):
        pass


async def half_head(connection: socket.socket) -> None:
    await _say(connection, b"GET /metrics HTTP/1.1\r\nHost: he")


async def half_body(connection: socket.socket) -> None:
    await _say(connection, b"POST /api/v1/operations/production HTTP/1.1\r\nHost: here\r\nContent-Length: 99\r\n\r\n{")


async def slow_reader(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(connection, PLAIN)
    while await loop.sock_recv(connection, 1024):  # noqa: ASYNC110 - it waits for nothing: it is slow
        await asyncio.sleep(0.5)


_TLS = ssl.create_default_context()
_requests = count(1)


async def requests(connection: socket.socket) -> None:
    """Ask again and again, and read whatever comes."""
    loop, number = asyncio.get_running_loop(), 0
    while (number := next(_requests)) <= REQUESTS:
        await loop.sock_sendall(connection, (GZIP, PLAIN)[number % 2])
        left = await _length(connection)
        while left > 0:
            left -= len(await loop.sock_recv(connection, min(left, 1 << 20)) or b"0" * left)


async def _length(connection: socket.socket) -> int:
    """Read the head of an answer, and tell how many bytes follow."""
    loop, head = asyncio.get_running_loop(), b""
    while not head.endswith(b"\r\n\r\n"):
        if not (got := await loop.sock_recv(connection, 1)):
            raise ConnectionError
        head += got
    return int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])


async def _connect(client: Client, address: Address, pace: asyncio.Semaphore) -> None:
    """Connect as often as the connection is closed."""
    loop = asyncio.get_running_loop()
    while True:
        await pace.acquire()
        with suppress(OSError), closing(socket.socket()) as connection:
            connection.setblocking(False)  # noqa: FBT003 - socket's own
            if client is slow_reader:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await loop.sock_connect(connection, address)
            await client(connection)


async def _paced(pace: asyncio.Semaphore) -> None:
    while True:
        await asyncio.sleep(0.01)
        for _ in range(CONNECTS_PER_SECOND // 100):
            pace.release()


async def _flood(client: Client, address: Address, connections: int, seconds: float) -> None:
    pace = asyncio.Semaphore(connections)
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(_paced(pace), *(_connect(client, address, pace) for _ in range(connections)))


def flood(client: Client, address: Address, connections: int, seconds: float) -> None:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(_flood(client, address, connections, seconds))


# The scrapes meanwhile.


class Seen(NamedTuple):
    """Seconds of each scrape and of each probe, and the most memory in bytes, over a time."""

    scrapes: list[float]
    probes: list[float]
    rss: int


def ask(connection: http.client.HTTPConnection, path: str) -> float:
    """Ask on a new connection until one is answered, as the next scrape or probe would; return how long it took."""
    began = time.monotonic()
    while True:
        connection.close()
        try:
            connection.request("GET", path, headers={"Accept-Encoding": "gzip"})
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            assert time.monotonic() - began < PATIENCE_SECONDS
            time.sleep(PAUSE_SECONDS)  # waits for nothing, as below
        else:
            assert answer.status == 200
            assert len(body) == int(answer.headers["Content-Length"])
            return time.monotonic() - began


def rss(process: int) -> int:
    pages = Path(f"/proc/{process}/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


def look(process: int, connection: http.client.HTTPConnection, going_on: Callable[[], bool]) -> Seen:
    scrapes, probes, most = [], [], 0
    with closing(connection):
        while going_on():
            scrapes.append(ask(connection, "/metrics"))
            probes.append(ask(connection, "/-/healthy"))
            most = max(most, rss(process))
            time.sleep(PAUSE_SECONDS)  # waits for nothing: Prometheus does not flood
    return Seen(scrapes, probes, most)


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    """Start the exporter, which knows from before that all its operations have ended."""
    start, now = Starter(tmp_path_factory.mktemp("floods"), COMMAND), time.time()
    known = [Shown(each, document(each, "completed", now)) for each in ids(OPERATIONS)]
    with Simulator(world=World(seed=1), rate_limits=False) as knock:
        try:
            started = serve(start, {"production": Place(knock, known)})
            assert started.metrics().count('status="completed"') >= OPERATIONS
            yield started
        finally:
            start.end()


def measure(
    client: Client, connections: int, process: int, connection: http.client.HTTPConnection
) -> tuple[Seen, Seen]:
    rounds = iter(range(10))
    quiet = look(process, connection, lambda: next(rounds, None) is not None)
    address = (connection.host, connection.port)
    flooding = PROCESSES.Process(target=flood, args=(client, address, connections, FLOOD_SECONDS), daemon=True)
    flooding.start()
    try:
        return quiet, look(process, connection, flooding.is_alive)
    finally:
        flooding.kill()
        flooding.join()


def check(client: Client, connections: int, process: int, connection: http.client.HTTPConnection) -> None:
    for last in (False, True):  # what else runs on the machine may take a second, but hardly twice
        quiet, seen = measure(client, connections, process, connection)
        usual = statistics.median(quiet.scrapes)
        longest, cost = max(*seen.scrapes, *seen.probes) - usual, seen.rss - quiet.rss
        figures = f"{len(seen.scrapes)} scrapes, usually {usual:.3f} s, {longest:.3f} s later, {cost / 1e6:.0f} MB"
        assert len(seen.scrapes) >= 5, figures
        assert statistics.median(seen.probes) <= PROBE_SECONDS, figures
        assert cost <= COST_BYTES, figures
        if longest <= DELAY_SECONDS:
            return
        assert not last, figures


@pytest.mark.parametrize(
    ("client", "connections"),
    [(silent, 1000), (half_head, 1000), (half_body, 1000), (slow_reader, 1000), (requests, 100)],
)
def test_a_flood_keeps_no_scrape_out(exporter: Exporter, client: Client, connections: int) -> None:
    parts = urlsplit(exporter.url)
    connection = http.client.HTTPConnection(str(parts.hostname), int(parts.port or 0), timeout=10)
    check(client, connections, exporter.process.pid, connection)
    assert "Traceback" not in exporter.output


@pytest.mark.parametrize("client", [silent, client_hello])
def test_a_flood_of_handshakes_keeps_no_scrape_out(client: Client) -> None:
    authority = trustme.CA()
    ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(ours)
    authority.configure_trust(theirs)
    routes = [Route("/metrics", lambda _request: Response(b"x" * 1_000_000))]
    app = Starlette(routes=[*routes, Route("/-/healthy", lambda _request: Response())])
    listening = bind("127.0.0.1", 0)
    port = listening.getsockname()[1]
    server = WebServer(app, [listening], pytest.fail, ConnectionRules(tls=lambda: ours))
    server.start()
    try:
        check(client, 1000, os.getpid(), http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=theirs))
    finally:
        server.stop()
