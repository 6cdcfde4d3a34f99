"""The configuration file: loaded at the start, watched, and loaded again without a restart."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from exporter import config, files
from exporter.config.yaml_source import BYTES_MOST
from exporter.errors import ExporterError, StartError
from exporter.keys import SETTLED_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from exporter.config import Config

    Verdict = Callable[[str | None, bool], None]

RETRY_FIRST = 5.0  # seconds
RETRY_MOST = 60.0  # as many thousands of ids may have to be read each time

log = structlog.get_logger()


class NeedsRestart(StartError):
    """A setting changed that a running process cannot change."""


class ConfigFile:
    """A configuration file as this process takes it: with these `environments` only (empty: all).

    `storage` is where this process keeps its state, in place of what the file says.
    """

    def __init__(
        self, path: Path, environ: Mapping[str, str], environments: Sequence[str] = (), storage: Path | None = None
    ) -> None:
        self._path = path
        self._environ = environ
        self._environments = environments
        self._storage = storage
        self._loaded = False
        self._seen = {path: _digest(path)}  # of this file and of the CA files that it names
        self._candidate: dict[Path, bytes] | None = None

    def load(self) -> Config:
        """Read and check all of it. Raises ConfigError, or StartError for an environment that is not in it."""
        if self._loaded and files.is_pipe(self._path):
            raise NeedsRestart(f"{self._path}: is a pipe, which was read at the start (restart to load another one)")
        # Once it runs, no pipe that has taken the file's place may hold up the reader.
        seconds = 0.0 if self._loaded else config.PIPE_SECONDS
        loaded = config.load(self._path, self._environ, self._environments, pipe_seconds=seconds)
        self._loaded = True
        authorities = {each.ca_file for each in loaded.environments if each.ca_file is not None}
        self._seen = {self._path: self._seen[self._path]} | {path: _digest(path) for path in authorities}
        return replace(loaded, storage=self._storage) if self._storage is not None else loaded

    def note(self) -> None:
        """Take what the file holds now as seen."""
        self._seen, self._candidate = self._contents(), None

    def signatures(self) -> dict[Path, tuple[int, int, int] | None]:
        """Return what tells whether one of the files that it names has changed or come."""
        return {path: _signature(path) for path in config.references(self._path, self._environments)}

    def changed(self, wall: float) -> bool:
        """Whether the file or a CA file that it names holds something new.

        It has to be whole: not written to for a second, or the same in two looks.
        """
        found = self._contents()
        if found == self._seen:
            self._candidate = None
            return False
        if found != self._candidate and self._age(wall) < SETTLED_SECONDS:
            self._candidate = found
            return False
        self._seen, self._candidate = found, None
        return True

    def _contents(self) -> dict[Path, bytes]:
        return {path: _digest(path) for path in self._seen}

    def _age(self, wall: float) -> float:
        try:
            return wall - max(path.stat().st_mtime for path in self._seen)
        except OSError:
            return 0.0


def _digest(path: Path) -> bytes:
    try:
        return hashlib.sha256(files.read(path, BYTES_MOST)).digest()
    except OSError:
        return b""  # as good as any other content: loading it says what is wrong


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


class Reloading:
    """Loads the configuration again; the active one stays wherever the new one cannot be used.

    `apply` makes a configuration the active one, or raises an ExporterError and changes nothing; `failed` hears of each
    attempt that went wrong. Such an attempt is repeated when a file that the configuration names changes, and after
    RETRY_FIRST seconds, doubling to RETRY_MOST: a key may come later than the configuration that names it.
    """

    def __init__(
        self,
        file: ConfigFile,
        apply: Callable[[Config], None],
        failed: Callable[[], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = file
        self._apply = apply
        self._failed = failed
        self._monotonic = monotonic
        self._problem: str | None = None
        self._retry_seconds = RETRY_FIRST
        self._retry_at = math.inf
        self._signatures: dict[Path, tuple[int, int, int] | None] = {}

    def look(self, wall: float) -> None:
        """Reload if the file has changed, or if it is time to repeat what went wrong."""
        if self._file.changed(wall) or self._is_due():
            self._reload(log_again=False)

    def _is_due(self) -> bool:
        if self._retry_at == math.inf:
            return False
        changed = {path: _signature(path) for path in self._signatures} != self._signatures
        return changed or self._monotonic() >= self._retry_at

    def reload(self, reply: Verdict = lambda _problem, _conflict: None) -> None:
        """Reload now; `reply` gets what is wrong (None: nothing), and whether a restart would take it."""
        self._reload(reply, log_again=True)

    def _reload(self, reply: Verdict = lambda _problem, _conflict: None, *, log_again: bool) -> None:
        self._file.note()
        try:
            self._apply(self._file.load())
        except ExporterError as error:
            self._plan(again=not isinstance(error, NeedsRestart))
            if log_again or str(error) != self._problem:
                log.error("configuration not reloaded, the old one stays in force", error=str(error))  # noqa: TRY400 - expected
            self._problem = str(error)
            reply(str(error), isinstance(error, NeedsRestart))
        except BaseException:
            self._plan(again=True)
            reply("unexpected error, see the log", False)  # noqa: FBT003 - no restart would help
            raise
        else:
            self._problem, self._retry_at, self._retry_seconds = None, math.inf, RETRY_FIRST
            log.info("configuration reloaded")
            reply(None, False)  # noqa: FBT003 - nothing is wrong

    def _plan(self, *, again: bool) -> None:
        self._failed()
        if not again:
            self._retry_at = math.inf
            return
        self._signatures = self._file.signatures()
        self._retry_at = self._monotonic() + self._retry_seconds
        self._retry_seconds = min(2 * self._retry_seconds, RETRY_MOST)
