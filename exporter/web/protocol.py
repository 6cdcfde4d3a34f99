"""HTTP on a connection: uvicorn's, with a watch on how far each request and answer is.

It relies on this of uvicorn's H11Protocol, and nothing else: the constructor's arguments, that `connection_made` and
`connection_lost` are called with `transport` set, that it calls `app` once for each request, and that it awaits the
transport's `resume_writing` before it writes on.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import structlog
from uvicorn.protocols.http.h11_impl import H11Protocol

from exporter.web.connections import EXTENSION, Phase
from exporter.web.tls import ServerContext

if TYPE_CHECKING:
    import asyncio
    import ssl
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from uvicorn import Server

    from exporter.web.connections import Connection, ConnectionLimits

PLAIN_REFUSED = b"Client sent an HTTP request to an HTTPS server.\n"  # as Go's server
_NOT_ALLOWED = "client certificate has none of the names in client_allowed_sans"
_TOO_LARGE = b"The head of the request is too large.\n"


log = structlog.get_logger()


class Protocol(H11Protocol):
    """Serves one connection; `ended` is called when it is lost."""

    def __init__(
        self,
        connection: Connection,
        ended: Callable[[Connection], None],
        limits: ConnectionLimits,
        server: Server,
        tls: Callable[[], ssl.SSLContext | None],
    ) -> None:
        super().__init__(server.config, server.server_state, {})
        self._tls = tls
        self._connection, self._ended, self._limits = connection, ended, limits
        self._served: ASGIApp = self.app
        self.app = self._serve
        self._requests = 0

    # What the transport tells.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """Begin."""
        super().connection_made(transport)
        # So that each stall of the reader is told, and each end of one; with 0, TLS takes an empty buffer for full.
        transport.set_write_buffer_limits(high=1, low=0)
        self._connection.phase = Phase.HEAD  # since it was accepted: who is slow at TLS gets no more time
        certificate = transport.get_extra_info("peercert")  # empty unless it was verified
        context = transport.get_extra_info("sslcontext")
        self._connection.plain = context is None
        if isinstance(context, ServerContext) and not context.allows(certificate):
            log.debug("connection not let in", address=self._connection.address, error=_NOT_ALLOWED)
            transport.abort()
            return
        self._connection.trusted = bool(certificate)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        super().connection_lost(exc)
        self._connection.on_lost()
        self._ended(self._connection)
        self.app = self._served  # else it holds itself until the garbage collector comes by

    def data_received(self, data: bytes) -> None:
        """Take what was sent."""
        if self._connection.phase is Phase.IDLE:
            self._connection.enter(Phase.HEAD, self.loop.time())
        super().data_received(data)

    def pause_writing(self) -> None:
        """Wait for the reader."""
        self._connection.stall(self.loop.time())
        super().pause_writing()

    def resume_writing(self) -> None:
        """Write on."""
        self._connection.flow(self.loop.time())
        super().resume_writing()

    # What the application does.

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._requests += 1
        number, head_since, answering = self._requests, self._begin(scope), False

        async def receive_noting() -> Message:
            # Only who is waited for to send a body has a time for it: most routes read none.
            if not answering and number == self._requests:
                self._connection.enter(Phase.BODY, head_since)
            message = await receive()
            self._begin_response(number)
            return message

        async def send_noting(message: Message) -> None:
            nonlocal answering
            answering = True
            self._begin_response(number)
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                self._finish(number)

        try:
            await self._chosen(scope)(scope, receive_noting, send_noting)
        finally:
            self._finish(number)

    def _chosen(self, scope: Scope) -> ASGIApp:
        if self._tls() is not None and scope["scheme"] == "http":  # kept since before TLS was switched on
            return _refusal(HTTPStatus.BAD_REQUEST, PLAIN_REFUSED)
        if _head_size(scope) > self._limits.head_bytes:
            return _refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, _TOO_LARGE)
        return self._served

    def _begin(self, scope: Scope) -> float:
        """Begin to answer; return when the head of the request began."""
        connection, now = self._connection, self.loop.time()
        since = connection.since if connection.phase is Phase.HEAD else now
        scope["extensions"] = {EXTENSION: connection}
        connection.enter(Phase.ANSWER, now)
        return since

    def _begin_response(self, number: int) -> None:
        if number == self._requests and self._connection.phase is Phase.BODY:
            self._connection.enter(Phase.ANSWER, self.loop.time())

    def _finish(self, number: int) -> None:
        # An application may end after the next request, which was sent along with its own, has begun.
        if number == self._requests and self._connection.phase in (Phase.BODY, Phase.ANSWER):
            self._connection.enter(Phase.IDLE, self.loop.time())


def _head_size(scope: Scope) -> int:
    line = len(scope["raw_path"]) + len(scope["query_string"])
    return line + sum(len(name) + len(value) for name, value in scope["headers"])


def _refusal(status: HTTPStatus, text: bytes) -> ASGIApp:
    async def refuse(_scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    return refuse
