"""A server of raw bytes for tests: each connection is handed to a function that may do anything with it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    Handler = Callable[[socket.socket], object]


HANG_SECONDS = 60.0  # longer than anything that has to end sooner may take on a busy machine


class Server:
    """Accepts on a loopback port; counts connections and keeps what was sent to it."""

    handler: Handler

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.connections = 0
        self.requests: list[bytes] = []
        self.over = threading.Event()
        self._tls = tls
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://localhost:{self.port}"

    def request(self, connection: socket.socket) -> bytes:
        """Read one request's head and keep it; empty when the client has gone."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            piece = connection.recv(1)
            if not piece:
                return b""
            head += piece
        self.requests.append(head)
        return head

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            if self._tls is None:
                self.handler(connection)
                return
            with self._tls.wrap_socket(connection, server_side=True) as secured:
                self._open.append(secured)
                self.handler(secured)

    @contextlib.contextmanager
    def running(self) -> Iterator[Server]:
        self._threads[0].start()
        try:
            yield self
        finally:
            self.over.set()
            with contextlib.suppress(OSError):
                self._listening.shutdown(socket.SHUT_RDWR)  # wakes accept
            self._listening.close()
            for connection in list(self._open):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            for thread in list(self._threads):
                thread.join(2)


def answering(answer: bytes, *, keep: bool = False) -> Callable[[Server], Handler]:
    """Make a handler that answers each request with these bytes, and then closes unless told to `keep` going."""

    def bind(server: Server) -> Handler:
        def handle(connection: socket.socket) -> None:
            while server.request(connection):
                connection.sendall(answer)
                if not keep:
                    return

        return handle

    return bind


def hanging(answer: bytes = b"") -> Callable[[Server], Handler]:
    """Make a handler that sends these bytes and then nothing, with the connection open."""

    def bind(server: Server) -> Handler:
        def handle(connection: socket.socket) -> None:
            server.request(connection)
            connection.sendall(answer)
            server.over.wait(HANG_SECONDS)

        return handle

    return bind


def repeating(answer: bytes, piece: bytes, pause: float = 0.0) -> Callable[[Server], Handler]:
    """Make a handler that sends `answer` and then `piece` for ever, `pause` seconds between two."""

    def bind(server: Server) -> Handler:
        def handle(connection: socket.socket) -> None:
            server.request(connection)
            connection.sendall(answer)
            while not server.over.is_set():
                connection.sendall(piece)
                time.sleep(pause)

        return handle

    return bind


@contextlib.contextmanager
def serving(bind: Callable[[Server], Handler], tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Run a server with the handler that `bind` makes for it."""
    server = Server(tls)
    server.handler = bind(server)
    with server.running():
        yield server


def http(body: bytes | str = b"", status: int = 200, *headers: str) -> bytes:
    """Spell out an answer with its Content-Length."""
    body = body.encode() if isinstance(body, str) else body
    head = [f"HTTP/1.1 {status} Whatever", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body
