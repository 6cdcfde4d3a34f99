"""The active web configuration, and the TLS context that belongs to it.

Whatever it says counts for new connections and requests at once, without a restart: certificates, users, headers, and
other than in the exporter-toolkit also whether TLS is spoken at all. (There a file that gets its first certificate
changes nothing until the restart, and one that loses it refuses every connection.)
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import structlog

from exporter.errors import ConfigError, StartError
from exporter.files import SETTLED_SECONDS
from exporter.web.tls import Pems, make_context, read_pems
from exporter.web.web_config import WebConfig, load

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from pathlib import Path

log = structlog.get_logger()


class _Content(NamedTuple):
    """What the web configuration and the files that it names held at one time."""

    config: WebConfig
    pems: Pems | None = None


class _Active(NamedTuple):
    config: WebConfig
    context: ssl.SSLContext | None


class WebConfigWatcher:
    """Holds what is active; without a path the port is open, and speaks plain HTTP. Raises StartError.

    `reload_if_changed` belongs to one thread, `config` and `context` may be read from any. `wall` tells Unix seconds.
    """

    def __init__(self, path: Path | None, wall: Callable[[], float] = time.time) -> None:
        self._path = path
        self._wall = wall
        self._candidate: _Content | None = None
        self._problem: str | None = None
        try:
            self._content = _read(path) if path is not None else _Content(WebConfig())
            self._active = _made(self._content)
        except ConfigError as error:
            raise StartError(str(error)) from None
        except StartError as error:
            raise StartError(f"{path}: {error}") from None

    @property
    def config(self) -> WebConfig:
        """The active web configuration."""
        return self._active.config

    @property
    def context(self) -> ssl.SSLContext | None:
        """The context for the next connection; None: plain HTTP."""
        return self._active.context

    def reload_if_changed(self, *, whole: bool = False) -> str | None:
        """Read everything, and apply it if it is new, whole and good; return what is wrong with it, if anything.

        A content is whole once none of its files was written to for SETTLED_SECONDS, or two looks in a row saw the
        same: half a file may be a good one that lacks the users. With `whole`, somebody says that it is. What is broken
        leaves the old one active.
        """
        if self._path is None:
            return None
        try:
            self._take(_read(self._path), whole=whole)
        except ConfigError as error:
            self._note(str(error))
        except StartError as error:
            self._note(f"{self._path}: {error}")
        return self._problem

    def _take(self, found: _Content, *, whole: bool) -> None:
        if found == self._content:
            self._candidate = None
            self._note(None)
        elif not whole and found != self._candidate and self._age(found) < SETTLED_SECONDS:
            self._candidate = found
        else:
            self._candidate = found
            self._active = _made(found)
            self._content, self._problem = found, None
            tls, users = found.config.tls is not None, len(found.config.users)
            log.info("new web configuration active", path=str(self._path), tls=tls, users=users)

    def _age(self, found: _Content) -> float:
        named = found.config.tls.files() if found.config.tls is not None else ()
        files = [path for path in (self._path, *named) if path is not None]
        try:
            return self._wall() - max(path.stat().st_mtime for path in files)
        except OSError:
            return 0.0

    def _note(self, problem: str | None) -> None:
        before, self._problem = self._problem, problem
        if problem is not None and problem != before:
            log.warning("web configuration not loaded, the old one stays active", error=problem)
        if problem is None and before is not None:
            log.info("web configuration is good again", path=str(self._path))


def _read(path: Path) -> _Content:
    config = load(path)
    return _Content(config, read_pems(config.tls) if config.tls is not None else None)


def _made(content: _Content) -> _Active:
    config, pems = content
    return _Active(config, make_context(config.tls, pems) if config.tls is not None and pems is not None else None)
