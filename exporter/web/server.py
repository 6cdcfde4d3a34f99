"""The web server: uvicorn behind a listener of our own, in a thread of its own.

It relies on this of uvicorn's Server: that `serve` calls `startup`, waits for `should_exit`, and calls `shutdown`.
"""

from __future__ import annotations

import logging
import resource
import socket
import sys
import threading
from typing import TYPE_CHECKING

import structlog
import uvicorn

from exporter.errors import StartError
from exporter.web.connections import ConnectionLimits
from exporter.web.listener import Listener
from exporter.web.protocol import Protocol

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from starlette.types import ASGIApp

    from exporter.web.connections import Connection

END_SECONDS = 1  # for answers under way
BACKLOG = 1024  # a burst that does not fit comes again after a second

log = structlog.get_logger()


def bind(host: str, port: int) -> socket.socket:
    """Listen on an address (`host` empty: all, IPv4 and IPv6). Raises StartError that names it."""
    try:
        if not host and socket.has_dualstack_ipv6():
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:  # UnicodeError: no host has such a name
        name = f"[{host}]" if ":" in host else host
        # create_server adds the address to the text, in Python's form.
        why = str(getattr(error, "strerror", None) or error).partition(" (while attempting")[0]
        raise StartError(f"cannot listen on {name}:{port}: {why} (--web.listen-address names another)") from None


class _UvicornServer(uvicorn.Server):
    """uvicorn's server with a listener of ours in place of its own."""

    def __init__(self, config: uvicorn.Config, make_listener: Callable[[uvicorn.Server], Listener]) -> None:
        super().__init__(config)
        self._make_listener = make_listener

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets or [])
        self._listener = self._make_listener(self)
        self._listener.open()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._listener.close()
        await super().shutdown(sockets)
        self._listener.clear()


class WebServer:
    """Serves an application on bound sockets until it is stopped.

    `tls` returns the TLS context for the next connection, without blocking (None: plain), so that certificates can be
    exchanged at any time. `on_crash` is told when it ends by itself.
    """

    def __init__(
        self,
        app: ASGIApp,
        sockets: Sequence[socket.socket],
        on_crash: Callable[[str], None],
        tls: Callable[[], ssl.SSLContext | None] = lambda: None,
        limits: ConnectionLimits | None = None,
    ) -> None:
        self._limits = limits or ConnectionLimits().within(_descriptors())
        self._server = _UvicornServer(self._config(app), self._make_listener)
        self._sockets = list(sockets)
        self._tls = tls
        self._on_crash = on_crash
        self._stopping = False
        # A daemon: at the end of the process nobody waits for a reader that stalls.
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)

    def _config(self, app: ASGIApp) -> uvicorn.Config:
        return uvicorn.Config(
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
            timeout_keep_alive=int(self._limits.idle),
            h11_max_incomplete_event_size=self._limits.head_bytes,
        )

    def _make_listener(self, server: uvicorn.Server) -> Listener:
        def serve(connection: Connection) -> Protocol:
            return Protocol(connection, listener.forget, self._limits, server, self._tls)

        listener = Listener(self._sockets, serve, self._crashed, self._tls, self._limits)
        return listener

    def _crashed(self, error: BaseException) -> None:
        log.error("web server crashed", exc_info=error)
        self._server.should_exit = True

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


def _descriptors() -> int:
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
