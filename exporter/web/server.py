"""The web server: uvicorn on sockets of our own, in a thread of its own."""

from __future__ import annotations

import logging
import socket
import threading
from typing import TYPE_CHECKING

import structlog
import uvicorn

from exporter.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.types import ASGIApp

END_SECONDS = 1  # for answers under way
BACKLOG = 64  # asyncio logs a failing accept so often each second

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


class WebServer:
    """Serves an application on bound sockets until it is stopped."""

    def __init__(self, app: ASGIApp, sockets: Sequence[socket.socket], on_crash: Callable[[str], None]) -> None:
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
            backlog=BACKLOG,
        )
        self._server = uvicorn.Server(config)
        self._sockets = list(sockets)
        self._on_crash = on_crash
        # A daemon: at the end of the process nobody waits for a reader that stalls.
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def _run(self) -> None:
        # Not in the main thread, where uvicorn would take the signals and raise them again at its end (exit 143).
        try:
            self._server.run(sockets=self._sockets)
        except Exception:
            log.exception("web server crashed")
        if not self._server.should_exit:
            self._on_crash("web server ended")

    def stop(self) -> None:
        """Stop listening, give answers under way their time, and return after that at the latest."""
        uvicorn_log = logging.getLogger("uvicorn.error")
        level = uvicorn_log.level
        uvicorn_log.setLevel("CRITICAL")  # else a traceback for each answer that is cut off
        self._server.should_exit = True
        self._thread.join(END_SECONDS + 0.5)
        if not self._thread.is_alive():
            uvicorn_log.setLevel(level)
