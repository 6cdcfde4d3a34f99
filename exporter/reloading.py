"""The configuration file: loaded at the start, watched, and loaded again without a restart."""

from __future__ import annotations

import hashlib
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
        self._seen = self._content()
        self._candidate: bytes | None = None

    def load(self) -> Config:
        """Read and check all of it. Raises ConfigError, or StartError for an environment that is not in it."""
        if self._loaded and files.is_pipe(self._path):
            raise NeedsRestart(f"{self._path}: is a pipe, which was read at the start (restart to load another one)")
        # Once it runs, no pipe that has taken the file's place may hold up the reader.
        seconds = 0.0 if self._loaded else config.PIPE_SECONDS
        loaded = config.load(self._path, self._environ, self._environments, pipe_seconds=seconds)
        self._loaded = True
        return replace(loaded, storage=self._storage) if self._storage is not None else loaded

    def _content(self) -> bytes:
        try:
            return hashlib.sha256(files.read(self._path, BYTES_MOST)).digest()
        except OSError:
            return b""  # as good as any other content: loading it says what is wrong

    def note(self) -> None:
        """Take what the file holds now as seen."""
        self._seen, self._candidate = self._content(), None

    def changed(self, wall: float) -> bool:
        """Whether the file holds something new, and whole: not written to for a second, or the same in two looks."""
        found = self._content()
        if found == self._seen:
            self._candidate = None
            return False
        if found != self._candidate and self._age(wall) < SETTLED_SECONDS:
            self._candidate = found
            return False
        self._seen, self._candidate = found, None
        return True

    def _age(self, wall: float) -> float:
        try:
            return wall - self._path.stat().st_mtime
        except OSError:
            return 0.0


class Reloading:
    """Loads the configuration anew; the old one stays in force wherever the new one cannot be used.

    `apply` puts a configuration in force, or raises an ExporterError and changes nothing; `failed` is told of each
    attempt that went wrong.
    """

    def __init__(self, file: ConfigFile, apply: Callable[[Config], None], failed: Callable[[], None]) -> None:
        self._file = file
        self._apply = apply
        self._failed = failed

    def look(self, wall: float) -> None:
        """Reload if the file has changed."""
        if self._file.changed(wall):
            self.reload()

    def reload(self, reply: Verdict = lambda _problem, _conflict: None) -> None:
        """Reload now; `reply` gets what is wrong (None: nothing), and whether a restart would take it."""
        self._file.note()
        try:
            self._apply(self._file.load())
        except ExporterError as error:
            self._failed()
            log.error("configuration not reloaded, the old one stays in force", error=str(error))  # noqa: TRY400 - expected
            reply(str(error), isinstance(error, NeedsRestart))
        except BaseException:
            self._failed()
            reply("unexpected error, see the log", False)  # noqa: FBT003 - no restart would help
            raise
        else:
            log.info("configuration reloaded")
            reply(None, False)  # noqa: FBT003 - nothing is wrong
