"""The web server: uvicorn behind a listener of our own, in a thread of its own.

asyncio's listener takes one TLS context for good, and counts no connections. Here each phase of a connection has one
deadline, and at the cap of connections the one that has moved no byte for longest makes room.

It relies on this of uvicorn. Server: `serve` calls `startup`, waits for `should_exit`, and calls `shutdown`.
H11Protocol: the constructor's arguments; that `connection_made` and `connection_lost` are called with `transport` set;
that it calls `app` once for each request, and closes what is idle; that it awaits `resume_writing` before it writes on;
that `conn` is h11's; that it calls `send_400_response` where h11 refuses what was sent.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import resource
import socket
import ssl
import struct
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from http import HTTPStatus
from itertools import chain, count
from typing import TYPE_CHECKING

import h11
import structlog
import uvicorn
from starlette.responses import PlainTextResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from exporter.web.tls import ServerContext

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.types import ASGIApp, Receive, Scope, Send

END_SECONDS = 1  # for answers under way
ACCEPTS_A_TURN = 64  # of the event loop
WAIT_OUT_SECONDS = 0.1  # before the next accept when there are no file descriptors left
LOG_SECONDS = 60.0
SEND_BYTES = 256 * 1024  # held by the kernel: by itself it takes megabytes from us before a reader is seen to stall
DESCRIPTORS_SHARE = 2  # connections get one of so many file descriptors: Knock and the state need some as well
HANDSHAKE_RECORD = b"\x16"  # the first byte of every TLS connection (RFC 8446, 5.1)
PLAIN_REFUSED = "Client sent an HTTP request to an HTTPS server.\n"  # as Go's server
_PLAIN_ANSWER = b"HTTP/1.0 400 Bad Request\r\n\r\n" + PLAIN_REFUSED.encode()
HEAD_TOO_LARGE, HEAD_REFUSED = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The head of the request is too large.\n"
_TOO_LARGE_ANSWER = f"HTTP/1.1 431 {HEAD_TOO_LARGE.phrase}\r\nConnection: close\r\n\r\n{HEAD_REFUSED}".encode()
TWO_LENGTHS_REFUSED = "The request has Content-Length and Transfer-Encoding.\n"
_TWO_LENGTHS = frozenset({b"content-length", b"transfer-encoding"})
_NOT_ALLOWED = "client certificate has none of the names in client_allowed_sans"
_CLOSED = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK})
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_NO_LINGER = struct.pack("ii", 1, 0)

log = structlog.get_logger()


class Phase(Enum):
    """What a connection is waited for to do."""

    HEAD = "TLS handshake and head of a request"
    ANSWER = "taking an answer"  # making it, and reading the request's body, are part of that
    IDLE = "next request"


@dataclass(frozen=True, slots=True)
class ConnectionRules:
    """How connections are let in, how many there may be, and how many seconds each phase may take.

    `tls` returns the TLS context for the next connection, without blocking (None: plain), so that certificates can be
    exchanged at any time. `refused` is told why a connection or request was refused.
    """

    tls: Callable[[], ssl.SSLContext | None] = lambda: None
    refused: Callable[[str], object] = lambda _reason: None
    connections: int = 256
    head: float = 10.0  # from accept, or from its first byte
    answer: float = 60.0
    idle: float = 75.0
    quiet: float = 1.0  # what has moved no byte for so long makes room for others
    head_bytes: int = 16 * 1024
    sweep: float = 1.0  # between two looks at all that are open

    def within(self, descriptors: int) -> ConnectionRules:
        """Return these rules for a process that may open so many files."""
        if descriptors == resource.RLIM_INFINITY:
            return self
        return replace(self, connections=max(1, min(self.connections, descriptors // DESCRIPTORS_SHARE)))

    def seconds(self, phase: Phase) -> float:
        """Return how long a phase may take."""
        return {Phase.HEAD: self.head, Phase.ANSWER: self.answer, Phase.IDLE: self.idle}[phase]


class ServedConnection(H11Protocol):
    """A connection from accept to close."""

    def __init__(self, server: ListeningServer, accepted: socket.socket, address: str) -> None:
        super().__init__(server.config, server.server_state, {})
        self._server, self.address = server, address
        self.accepted, self.connected = accepted, False
        self._served: ASGIApp = self.app
        self._requests = 0
        self._unsent = 0
        self.enter(Phase.HEAD)

    def enter(self, phase: Phase) -> None:
        """Begin a phase."""
        self.phase, self.moved_at = phase, self.loop.time()
        self.ends_at = self.moved_at + self._server.rules.seconds(phase)

    def watch_reader(self) -> None:
        """Notice what its reader has taken."""
        unsent = self.transport.get_write_buffer_size() if self.connected else 0
        if unsent != self._unsent:
            self._unsent, self.moved_at = unsent, self.loop.time()

    # What the transport tells.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """Begin; the time of the first head began when it was accepted: who is slow at TLS gets no more."""
        super().connection_made(transport)
        self.connected, self.app = True, self._serve
        # So that an answer has ended once its reader took all of it; with 0, TLS takes an empty buffer for full.
        transport.set_write_buffer_limits(high=1, low=0)
        context = transport.get_extra_info("sslcontext")
        if isinstance(context, ServerContext) and not context.allows(transport.get_extra_info("peercert")):
            self._server.rules.refused("tls")
            log.debug("connection not accepted", address=self.address, error=_NOT_ALLOWED)
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        """End, and free 256 KiB of TLS: after an error, uvicorn's timer would hold on to it for `idle` seconds."""
        super().connection_lost(None)
        self._server.forget(self)
        self.app = self._served  # else it holds itself until the garbage collector comes by

    def data_received(self, data: bytes) -> None:
        """Take what was sent."""
        self.moved_at = self.loop.time()
        super().data_received(data)
        if self.phase is Phase.IDLE and self._has_part_of_head:
            self.enter(Phase.HEAD)

    @property
    def _has_part_of_head(self) -> bool:
        """Whether the next request has begun; the rest of a body that was answered already is none."""
        return self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, or has too large a head."""
        error = sys.exception()
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:  # it was answered, or is being answered
            self.transport.abort()
        elif isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == HEAD_TOO_LARGE:
            self._server.rules.refused("too_large")
            self.transport.write(_TOO_LARGE_ANSWER)
            self.transport.close()
        else:
            super().send_400_response(msg)

    def resume_writing(self) -> None:
        """Write on."""
        self.moved_at = self.loop.time()
        super().resume_writing()

    # What the application does.

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._requests += 1
        number = self._requests
        self.enter(Phase.ANSWER)
        await self._chosen(scope)(scope, receive, send)
        await self.flow.drain()
        if number == self._requests:  # else the next request, which was sent along with this one, has begun
            self.enter(Phase.HEAD if self._has_part_of_head else Phase.IDLE)

    def _chosen(self, scope: Scope) -> ASGIApp:
        if self._server.rules.tls() is not None and scope["scheme"] == "http":  # kept since before TLS was switched on
            self._server.rules.refused("tls")
            return PlainTextResponse(PLAIN_REFUSED, HTTPStatus.BAD_REQUEST, {"Connection": "close"})
        if {name for name, _ in scope["headers"]} >= _TWO_LENGTHS:  # where it ends, a proxy may see otherwise
            return PlainTextResponse(TWO_LENGTHS_REFUSED, HTTPStatus.BAD_REQUEST, {"Connection": "close"})
        line = len(scope["raw_path"]) + len(scope["query_string"])
        if line + sum(map(len, chain.from_iterable(scope["headers"]))) > self._server.rules.head_bytes:
            self._server.rules.refused("too_large")
            return PlainTextResponse(HEAD_REFUSED, HEAD_TOO_LARGE, {"Connection": "close"})
        return self._served


class ListeningServer(uvicorn.Server):
    """uvicorn's server with a listener of ours in place of its own."""

    def __init__(self, app: ASGIApp, sockets: Sequence[socket.socket], rules: ConnectionRules) -> None:
        config = uvicorn.Config(
            app,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=END_SECONDS,
            timeout_keep_alive=int(rules.idle),
            h11_max_incomplete_event_size=rules.head_bytes,
        )
        super().__init__(config)
        self._sockets, self.rules = sockets, rules
        self._open: dict[ServedConnection, asyncio.Task[None]] = {}  # and what lets each in
        self._tasks: list[asyncio.Task[None]] = []
        self._logged_at = self._full_until = -math.inf

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept."""
        await super().startup(sockets or [])
        self._loop = asyncio.get_running_loop()
        self._tasks = [self._loop.create_task(each) for each in (*map(self._accept, self._sockets), self._sweep())]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, give answers under way their time, and close all connections."""
        for task in (*self._tasks, *self._open.values()):
            task.cancel()
        for each in self._sockets:
            each.close()
        await super().shutdown(sockets)
        for connection in list(self._open):
            self._drop(connection)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("web server crashed", exc_info=error)
            self.should_exit = True

    # Letting in.

    async def _accept(self, listening: socket.socket) -> None:
        listening.settimeout(0)
        for number in count():
            try:
                accepted, address = await self._loop.sock_accept(listening)
            except OSError as error:
                if error.errno in _CLOSED:
                    raise
                if error.errno in _NO_ROOM:  # else that connection was broken before it was accepted
                    await self._wait_out(error)
            else:
                self._admit(accepted, str(address[0]))
            if number % ACCEPTS_A_TURN == 0:  # a flood must not keep the loop from those that are open
                await asyncio.sleep(0)

    async def _wait_out(self, error: OSError) -> None:
        now = self._loop.time()
        if now - self._logged_at >= LOG_SECONDS:
            self._logged_at = now
            log.warning("cannot accept connections, trying again", error=error.strerror)
        await asyncio.sleep(WAIT_OUT_SECONDS)

    def _admit(self, accepted: socket.socket, address: str) -> None:
        if len(self._open) >= self.rules.connections and not self._make_room():
            accepted.close()
            return
        connection = ServedConnection(self, accepted, address)
        self._open[connection] = task = self._loop.create_task(self._welcome(connection))
        task.add_done_callback(partial(self._welcomed, connection))

    def _make_room(self) -> bool:
        self.rules.refused("connections")  # the newcomer, or the one that makes room
        if self._loop.time() >= self._full_until:
            for each in self._open:
                each.watch_reader()
            quietest = min(self._open, key=lambda each: each.moved_at)
            self._full_until = quietest.moved_at + self.rules.quiet
            if self._loop.time() >= self._full_until:
                self._drop(quietest)
                return True
        return False

    async def _welcome(self, connection: ServedConnection) -> None:
        accepted, context = connection.accepted, self.rules.tls()
        # asyncio does it only for sockets that were made with their protocol's number; without it, the end of an answer
        # waits 40 ms for the reader's kernel.
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        if context is not None and (first := await self._first_byte(accepted)) != HANDSHAKE_RECORD:
            if not first:
                return  # closed already, as a check of the port does
            self.rules.refused("tls")
            with suppress(OSError):  # what cannot be sent at once is not sent
                accepted.recv(65536)  # what is left unread would take the answer away again
                accepted.send(_PLAIN_ANSWER)
            return
        await self._loop.connect_accepted_socket(lambda: connection, accepted, ssl=context)

    async def _first_byte(self, accepted: socket.socket) -> bytes:
        """Look at the first byte, and leave it there; nothing where the other side has closed."""
        # Not left to asyncio: its TLS takes 256 KiB at once, also for a client that says nothing.
        readable = asyncio.Event()
        self._loop.add_reader(accepted, readable.set)
        try:
            await readable.wait()
        finally:
            self._loop.remove_reader(accepted)
        return accepted.recv(1, socket.MSG_PEEK)

    def _welcomed(self, connection: ServedConnection, task: asyncio.Task[None]) -> None:
        if not connection.connected:  # it came to nothing
            connection.accepted.close()
            self.forget(connection)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, OSError):  # TLS errors are some as well
            log.debug("connection not accepted", address=connection.address, error=str(error))
            if isinstance(error, ssl.SSLError):
                self.rules.refused("tls")
        elif error is not None:
            log.error("connection not accepted", exc_info=error)

    # Closing.

    def forget(self, connection: ServedConnection) -> None:
        """Count a connection no more."""
        self._open.pop(connection, None)

    def _drop(self, connection: ServedConnection) -> None:
        task = self._open.pop(connection)
        with suppress(OSError):  # closed already
            # Else the kernel goes on to hold what was not read.
            connection.accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        if connection.connected:
            connection.transport.abort()
        else:
            task.cancel()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self.rules.sweep)
            self._check_all()

    def _check_all(self) -> None:  # not in the coroutine, which would hold the last of them until the next sweep
        for each in list(self._open):
            each.watch_reader()
            if self._loop.time() >= each.ends_at:
                self._drop(each)
                if each.phase is not Phase.IDLE:
                    self.rules.refused("timeout")
            elif self.rules.tls() is not None and each.scheme == "http" and each.phase is not Phase.ANSWER:
                self._drop(each)  # plain since before TLS was switched on


class WebServer:
    """Serves an application on bound sockets until it is stopped. `on_crash` is told when it ends by itself."""

    def __init__(
        self,
        app: ASGIApp,
        sockets: Sequence[socket.socket],
        on_crash: Callable[[str], None],
        rules: ConnectionRules | None = None,
    ) -> None:
        descriptors, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._server = ListeningServer(app, sockets, (rules or ConnectionRules()).within(descriptors))
        self._on_crash = on_crash
        self._stopping = False
        # A daemon: at the end of the process nobody waits for a reader that stalls.
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def _run(self) -> None:
        # Not in the main thread, where uvicorn would take the signals and raise them again at its end (exit 143).
        try:
            self._server.run()
        except Exception:
            log.exception("web server crashed")
        if not self._stopping:
            self._on_crash("web server ended")

    def request_stop(self) -> None:
        """Stop listening, and give answers under way their time; does not wait."""
        self._stopping = self._server.should_exit = True

    def stop(self, seconds: float = END_SECONDS + 0.5) -> None:
        """Stop, and return once answers under way have had their time, after so many seconds at the latest."""
        uvicorn_log = logging.getLogger("uvicorn.error")
        level = uvicorn_log.level
        uvicorn_log.setLevel("CRITICAL")  # else a traceback for each answer that is cut off
        self.request_stop()
        self._thread.join(seconds)
        if not self._thread.is_alive():
            uvicorn_log.setLevel(level)
