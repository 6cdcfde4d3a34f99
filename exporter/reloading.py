"""The configuration file: loaded at the start, watched, and loaded again without a restart."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import structlog

from exporter import config, files
from exporter.errors import ConfigError, ExporterError, StartError, redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from exporter.config import Config
    from exporter.tracking.transitions import Moment
    from exporter.web.lifecycle import ReloadReply

RETRY_SECONDS, RETRY_SECONDS_MOST = 5.0, 60.0  # many ids take seconds to load

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
        self.path = path
        self._environ = environ
        self._environments = environments
        self._storage = storage
        self._loaded = False
        self._watch = files.Watch([path])

    def load(self) -> Config:
        """Read and check all of it. Raises ConfigError, or StartError for an environment that is not in it."""
        self._watch.note()
        if not self._loaded and not self.path.exists():
            hint = "name another with --config.file, begin with config.example.yaml, or try `knock-exporter demo` first"
            raise StartError(f"{self.path}: no such file ({hint})")
        if self._loaded and files.is_pipe(self.path):
            raise NeedsRestart(f"{self.path}: is a pipe, which was read at the start (restart to load another one)")
        # Once it runs, no pipe that has taken the file's place may hold up the reader.
        seconds = 0.0 if self._loaded else config.PIPE_SECONDS
        loaded = config.load(
            self.path,
            self._environ,
            self._environments,
            pipe_seconds=seconds,
            needs_storage=self._storage is None,
        )
        self._loaded = True
        return replace(loaded, storage=config.Storage(self._storage)) if self._storage is not None else loaded

    def changed(self, wall: float) -> bool:
        """Whether the file holds something new, and whole."""
        return self._watch.changed(wall)


class _Retry:
    """When to try again what failed: once one of these files has changed, else after pauses that grow."""

    def __init__(self, problem: str, named: Iterable[Path], now: Moment) -> None:
        self.problem = problem
        self._named = files.Watch(named)
        self._pause = RETRY_SECONDS
        self._due = now.mono + self._pause

    def is_due(self, now: Moment) -> bool:
        return self._named.changed(now.wall) or now.mono >= self._due

    def failed_again(self, now: Moment) -> None:
        self._pause = min(2 * self._pause, RETRY_SECONDS_MOST)
        self._due = now.mono + self._pause


class RefusedReload(NamedTuple):
    """Why the configuration was not reloaded, and since when (Unix seconds) none could be."""

    problem: str
    since: float


class Reloading:
    """Loads the configuration again; the old one stays wherever the new one cannot be used.

    `apply` puts a configuration to use, or raises an ExporterError and changes nothing; `failed` is told of each
    attempt that went wrong. What something other than the file itself may mend is tried again. `refused` tells why the
    last attempt went wrong; None: it did not.
    """

    def __init__(self, file: ConfigFile, apply: Callable[[Config], None], failed: Callable[[], None]) -> None:
        self.file = file
        self._apply = apply
        self._failed = failed
        self._retry: _Retry | None = None
        self.refused: RefusedReload | None = None

    def reload_if_changed(self, now: Moment) -> None:
        """Reload if the file has changed, or if the last attempt may work by now."""
        if self.file.changed(now.wall):
            self.reload(now)
        elif self._retry is not None and self._retry.is_due(now):
            self._attempt(now)

    def reload(self, now: Moment, reply: ReloadReply = lambda _problem, _needs_restart: None) -> None:
        """Reload now; `reply` gets what is wrong (None: nothing), and whether a restart would take it."""
        self._retry = None
        self._attempt(now, reply)

    def _attempt(self, now: Moment, reply: ReloadReply = lambda _problem, _needs_restart: None) -> None:
        try:
            self._apply(self.file.load())
        except ExporterError as error:
            self._refuse(str(error), now)
            if self._plan(str(error), _files_to_watch(error), now):
                log.error("configuration not reloaded, the old one stays active", error=str(error))  # noqa: TRY400 - expected
            reply(str(error), isinstance(error, NeedsRestart))
        except BaseException as error:
            self._refuse("unexpected error, see the log", now)
            self._plan(type(error).__name__, (), now)
            reply("unexpected error, see the log", False)  # noqa: FBT003 - no restart would help
            raise
        else:
            self._retry = self.refused = None
            log.info("configuration reloaded")
            reply(None, False)  # noqa: FBT003 - nothing is wrong

    def _refuse(self, problem: str, now: Moment) -> None:
        since = now.wall if self.refused is None else self.refused.since
        self.refused = RefusedReload(redact(problem), since)
        self._failed()

    def _plan(self, problem: str, named: tuple[Path, ...] | None, now: Moment) -> bool:
        """Plan the next attempt (`named` None: there is none); return whether it is another problem than the last."""
        if self._retry is not None and self._retry.problem == problem:
            self._retry.failed_again(now)
            return False
        self._retry = None if named is None else _Retry(problem, named, now)
        return True


def _files_to_watch(error: ExporterError) -> tuple[Path, ...] | None:
    """Return the files whose change may mend an error (none: only time may); None: only another configuration can."""
    if isinstance(error, ConfigError):
        return error.mended_by or None
    return None if isinstance(error, NeedsRestart) else ()
