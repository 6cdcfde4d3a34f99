"""Lets connections in, has TLS agreed on, keeps them within the limits, and closes those that take too long.

An accept loop of our own, because asyncio's takes one TLS context for good, accepts thousands at once without counting,
and logs each accept that fails.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from exporter.web.connections import (
    Connection,
    ConnectionLimits,
    Phase,
    expendable,
    expendable_of_all,
    nothing,
    overdue,
    party,
)
from exporter.web.protocol import PLAIN_REFUSED

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

SWEEP_SECONDS = 1.0
WAIT_OUT_SECONDS = 0.1  # before the next accept when there are no file descriptors left
LOG_SECONDS = 60.0
SEND_BYTES = 256 * 1024  # held by the kernel: by itself it takes megabytes from us before a reader is seen to stall
SHUTDOWN_SECONDS = 5.0  # for the rest of an answer and for the other side's goodbye, in TLS
HANDSHAKE_RECORD = b"\x16"  # the first byte of every TLS connection (RFC 8446, 5.1)
PLAIN_ANSWER = b"HTTP/1.0 400 Bad Request\r\n\r\n" + PLAIN_REFUSED
_CLOSED = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK})
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_NO_LINGER = struct.pack("ii", 1, 0)

log = structlog.get_logger()


class Listener:
    """Lets connections in while it is open, in the event loop in which it is made.

    `serve` makes the protocol of a connection; `tls` returns the context for the next connection (None: plain). Both
    are called in the event loop. `crashed` is told when a listening socket fails.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        serve: Callable[[Connection], asyncio.Protocol],
        crashed: Callable[[BaseException], None],
        tls: Callable[[], ssl.SSLContext | None],
        limits: ConnectionLimits,
    ) -> None:
        self._sockets = sockets
        self._serve = serve
        self._crashed = crashed
        self._tls = tls
        self._limits = limits
        self._by_party: dict[str, set[Connection]] = {}
        self._count = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._logged_at: float | None = None
        self._loop = asyncio.get_running_loop()

    def open(self) -> None:
        """Begin to accept."""
        for task in (*(self._accept(each) for each in self._sockets), self._sweep()):
            self._keep(self._loop.create_task(task)).add_done_callback(self._ended)

    def close(self) -> None:
        """Accept no more, and close who is not let in yet."""
        for task in self._tasks:
            task.cancel()
        for each in self._sockets:
            each.close()

    def clear(self) -> None:
        """Close all connections at once."""
        for each in self._everybody():
            each.drop()

    def _everybody(self) -> list[Connection]:
        return [each for group in self._by_party.values() for each in group]

    def _keep(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        # The loop itself holds tasks weakly only.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._crashed(error)

    # Letting in.

    async def _accept(self, listening: socket.socket) -> None:
        listening.settimeout(0)
        while True:
            try:
                accepted, address = await self._loop.sock_accept(listening)
            except OSError as error:
                if error.errno in _CLOSED:
                    raise
                await self._wait_out(error)
            else:
                self._admit(accepted, party(address[0]))
                # One a turn of the loop: in every turn each young connection is read too, so that it takes as many
                # turns as there may be connections to push one out.
                await asyncio.sleep(0)

    async def _wait_out(self, error: OSError) -> None:
        if error.errno not in _NO_ROOM:
            return  # that connection was broken before it was accepted
        now = self._loop.time()
        if self._logged_at is None or now - self._logged_at >= LOG_SECONDS:
            self._logged_at = now
            log.warning("cannot accept connections, trying again", error=error.strerror)
        await asyncio.sleep(WAIT_OUT_SECONDS)

    def _admit(self, accepted: socket.socket, address: str) -> None:
        connection = Connection(address, since=self._loop.time())
        self._by_party.setdefault(address, set()).add(connection)
        self._count += 1
        task = self._keep(self._loop.create_task(self._welcome(connection, accepted)))
        task.add_done_callback(lambda done: self._welcomed(connection, accepted, done))
        connection.drop = lambda: self._drop(connection, accepted, task.cancel)
        self._make_room(address)

    async def _welcome(self, connection: Connection, accepted: socket.socket) -> None:
        # asyncio does it only for sockets that were made with their protocol's number; without it, the end of an answer
        # waits 40 ms for the reader's kernel.
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        context = self._tls()
        if context is not None and not await self._speaks_tls(accepted):
            _refuse_plain(accepted)
            return
        transport, _protocol = await self._loop.connect_accepted_socket(
            lambda: self._serve(connection),
            accepted,
            ssl=context,
            ssl_handshake_timeout=self._limits.handshake if context else None,
            ssl_shutdown_timeout=SHUTDOWN_SECONDS if context else None,
        )
        connection.drop = lambda: self._drop(connection, accepted, transport.abort)

    async def _speaks_tls(self, accepted: socket.socket) -> bool:
        """Look at the first byte, and leave it there."""
        # Not left to asyncio: its TLS takes 256 KiB at once, also for a client that says nothing.
        readable = asyncio.Event()
        self._loop.add_reader(accepted, readable.set)
        try:
            await readable.wait()
        finally:
            self._loop.remove_reader(accepted)
        return accepted.recv(1, socket.MSG_PEEK) == HANDSHAKE_RECORD

    def _welcomed(self, connection: Connection, accepted: socket.socket, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if connection.phase is Phase.HANDSHAKE:  # it came to nothing
            accepted.close()
            self.forget(connection)
        if isinstance(error, OSError):  # TLS errors are some as well
            log.debug("connection not let in", address=connection.address, error=str(error))
        elif error is not None:
            log.error("connection not let in", exc_info=error)

    # Keeping within the limits.

    def _make_room(self, address: str) -> None:
        now, young = self._loop.time(), self._limits.young
        found = None
        if len(group := self._by_party[address]) > self._limits.per_address:
            found = expendable(group, now, young)
        elif self._count > self._limits.connections:
            found = expendable_of_all(self._by_party, now, young)
        else:
            return
        if found is not None:
            found.drop()

    def forget(self, connection: Connection) -> None:
        """Count a connection no more."""
        # It would hold itself, and with it 256 KiB of TLS, until the garbage collector comes by.
        connection.drop = nothing
        group = self._by_party.get(connection.address, set())
        if connection in group:
            self._count -= 1
            group.discard(connection)
            if not group:
                del self._by_party[connection.address]

    def _drop(self, connection: Connection, accepted: socket.socket, close: Callable[[], object]) -> None:
        self.forget(connection)
        with suppress(OSError):  # closed already
            # Else the kernel goes on to hold what was not read.
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now, tls = self._loop.time(), self._tls() is not None
            for each in self._everybody():
                kept_plain = tls and each.plain and each.phase is Phase.IDLE  # since before TLS was switched on
                if kept_plain or overdue(each, now, self._limits):
                    each.drop()


def _refuse_plain(accepted: socket.socket) -> None:
    """Answer a request that does not speak TLS; what cannot be sent at once is not sent."""
    with suppress(OSError):
        accepted.recv(65536)  # what is left unread would take the answer away again
        accepted.send(PLAIN_ANSWER)
