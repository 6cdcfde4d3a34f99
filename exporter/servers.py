"""The servers of the process: the application behind its lock, and where wanted health alone."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from exporter import __version__
from exporter.errors import StartError
from exporter.web.app import make_app, make_health_app
from exporter.web.server import ConnectionRules, WebServer
from exporter.web.web_config_watcher import WebConfigWatcher

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from exporter.web.context import AppContext

BACKLOG = 1024  # a burst that does not fit comes again after a second

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Flags:
    """What the command line settles about the process.

    `enable_lifecycle` lets a POST reload the configuration, `web_config_file` holds TLS and passwords. Probes are
    answered at `health_listen_address` too, without TLS, and with `health_without_password` everywhere without one.
    `shown` has what people see: each flag's name, value, and whether it is not the default.
    `notice` stands on each page.
    """

    listen_addresses: Sequence[tuple[str, int]]
    telemetry_path: str = "/metrics"
    enable_lifecycle: bool = False
    external_url: str | None = None
    web_config_file: Path | None = None
    health_listen_address: tuple[str, int] | None = None
    health_without_password: bool = False
    shown: tuple[tuple[str, str, bool], ...] = ()
    notice: str = ""


class Servers:
    """Listens from the start, and serves once it is opened. Raises StartError for what cannot be had as asked."""

    def __init__(self, flags: Flags) -> None:
        self._flags = flags
        if flags.web_config_file is not None and not flags.web_config_file.exists():
            raise StartError(f"{flags.web_config_file}: no such file (named by --web.config.file)")
        self._web_config = WebConfigWatcher(flags.web_config_file)
        self._sockets = [bind(*address) for address in flags.listen_addresses]
        self._health_sockets = [bind(*flags.health_listen_address)] if flags.health_listen_address else []
        self.addresses = [each.getsockname()[:2] for each in self._sockets]
        self._servers: list[WebServer] = []

    def reload_if_changed(self, *, whole: bool = False) -> str | None:
        """Take changed passwords or certificates; return what is wrong, if anything. `whole` as in WebConfigWatcher."""
        return self._web_config.reload_if_changed(whole=whole)

    def open(self, app_context: AppContext, on_crash: Callable[[str], None]) -> None:
        """Serve; `on_crash` is told when a server ends by itself."""
        app = make_app(
            app_context, lambda: self._web_config.config, health_without_password=self._flags.health_without_password
        )
        rules = ConnectionRules(lambda: self._web_config.context, app_context.refused)
        self._servers = [WebServer(app, self._sockets, on_crash, rules)]
        if self._health_sockets:
            health_rules = ConnectionRules(refused=app_context.refused)
            self._servers.append(WebServer(make_health_app(app_context), self._health_sockets, on_crash, health_rules))
        for server in self._servers:
            server.start()
        for each in self._sockets:
            log.info("listening", address=_shown(*each.getsockname()[:2]), tls=self._tls, version=__version__)
        for each in self._health_sockets:
            log.info("listening for probes", address=_shown(*each.getsockname()[:2]))

    @property
    def _tls(self) -> bool:
        return self._web_config.context is not None

    def close(self, remaining: Callable[[], float]) -> None:
        """Stop to listen, and give answers under way their time, at most the seconds that are `remaining`."""
        for server in self._servers:
            server.request_stop()  # all at once: together they have the time of one
        for server in self._servers:
            server.stop(remaining())


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
        low = "ports below 1024 need root or CAP_NET_BIND_SERVICE; " if isinstance(error, PermissionError) else ""
        hint = f"{low}choose another address with --web.listen-address"
        raise StartError(f"cannot listen on {name}:{port}: {why} ({hint})") from None


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
