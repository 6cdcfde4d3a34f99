"""Builds the whole, wires it, and ends it in order. The only place that knows everyone."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import structlog

from exporter.errors import ExporterError, StartError
from exporter.garbage_collection import collect_rarely
from exporter.heartbeats import Heartbeats
from exporter.housekeeping import Housekeeping, KeyReader
from exporter.keys import KeyWatch, doubt, exposure
from exporter.knock.client import read_key
from exporter.knock.environment_clients import EnvironmentClients
from exporter.knock.memory_budget import MemoryBudget, give_memory_back
from exporter.metrics.exposition import View
from exporter.metrics.own import Activity
from exporter.reloading import NeedsRestart, Reloading
from exporter.servers import Servers
from exporter.sources import Sources
from exporter.startup import signals_are_taken_over
from exporter.store.opening import open_store
from exporter.store.writer import Writer
from exporter.tokens import TokenWatch
from exporter.tracking.memory import Memory
from exporter.tracking.messages import (
    Close,
    Message,
    Outside,
    PutRun,
    Reconfigure,
    Register,
    Registration,
    Release,
    Scraped,
    Stop,
)
from exporter.tracking.tracker import Tracker, run
from exporter.tracking.transitions import Moment
from exporter.web.context import AppContext, ConfigurationStatus
from exporter.web.registration import RegistrationService

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from exporter.config import Config, ListedOperation
    from exporter.keys import Secret
    from exporter.reloading import ConfigFile
    from exporter.servers import Flags
    from exporter.tracking.memberships import SourceKey
    from exporter.tracking.runs import RunChanges
    from exporter.web.lifecycle import ReloadReply

TICK_SECONDS = 1.0
END_SECONDS = 4.0  # for all that is waited for at the end
LAST_ANSWERS_SECONDS = 1.5
WRITE_SECONDS = 1.0  # of the end, kept for the writer however long the tracker takes
SERVE_SECONDS = 0.5  # the same, for answers under way
START_SECONDS, START_TICK_SECONDS = 10.0, 0.1  # for the first view, before anybody is answered
SHOWN_SECONDS = 6.0  # for the view of a new configuration
SWITCH_SECONDS = 0.001  # how long a thread may keep others from running

log = structlog.get_logger()


def clock() -> Moment:
    """Read both clocks."""
    return Moment(time.monotonic(), time.time())


class Daemon:
    """The exporter of one configuration, from start to end; with its `file`, the configuration can be reloaded."""

    def __init__(
        self, config: Config, flags: Flags, environ: Mapping[str, str], file: ConfigFile | None = None
    ) -> None:
        self._config = config
        self._environ = environ
        self._inbox: SimpleQueue[Message] = SimpleQueue()
        self._ends: SimpleQueue[tuple[str, int]] = SimpleQueue()
        self._view: View | None = None
        self._shown = threading.Event()  # that there is a view
        self._ending = False
        self._flags = flags
        self._servers = Servers(flags)
        self.addresses = self._servers.addresses
        self._config_file = file.path if file is not None else None
        keys = _read_keys(config, environ, self._config_file)
        self._tokens = TokenWatch(config.registration.tokens, environ)
        self._activity = Activity(revision=environ.get("KNOCK_EXPORTER_REVISION", "unknown"))
        if flags.external_url is not None:
            self._activity.web_info.labels(flags.external_url).set(1)
        self._loaded_at = self._note_loaded()
        budget = MemoryBudget()
        self._clients = EnvironmentClients(self._inbox.put, budget)
        self._clients.prepare(config.environments, keys)()
        self._writer, memory = self._open_store(config)
        self._keys = KeyReader(environ, self._inbox.put, clock)
        self._keys.use(_watches(config, keys))
        self._sources = Sources(config, self._inbox.put, _remembered(memory), budget)
        self._reloading = (
            Reloading(file, self._apply, lambda: self._activity.reload_successful.set(0)) if file else None
        )
        self._housekeeping = self._make_housekeeping()
        outside = Outside(
            self._clients.fetch,
            lambda name: self._housekeeping.request(partial(self._keys.request, name)),
            self._clients.use_key,
            self._publish,
            random.random,
            self._writer.save if self._writer else None,
        )
        self._tracker = Tracker(config, keys, outside, self._activity, clock(), memory=memory)
        self._threads = self._make_threads()
        self._heartbeats = self._make_heartbeats()

    def _open_store(self, config: Config) -> tuple[Writer | None, Memory]:
        if config.storage is None:
            return None, Memory()
        store, memory = open_store(config.storage.path, clock)
        return Writer(store, self._inbox.put, clock), memory

    def _make_housekeeping(self) -> Housekeeping:
        checks: list[Callable[[], object]] = [
            self._keys.check_for_changes,
            lambda: self._clients.check_for_changes(self._config.environments, self._keys.key_of, time.time()),
            lambda: self._sources.check_for_changes(clock()),
            self._reload_tokens,
            self._servers.reload_if_changed,
        ]
        if (reloading := self._reloading) is not None:
            checks.append(lambda: reloading.reload_if_changed(clock()))
        return Housekeeping(checks, [self._keys.read_requested, lambda: self._sources.step(clock())], clock)

    def _make_threads(self) -> list[threading.Thread]:
        threads = [
            self._thread("tracker", lambda: run(self._tracker, self._inbox, clock)),
            self._thread("housekeeping", self._housekeeping.run),
        ]
        return [*threads, self._thread("writer", self._writer.run)] if self._writer else threads

    def _make_heartbeats(self) -> Heartbeats:
        steps = {"tracker": lambda: self._tracker.stepped_at, "housekeeping": lambda: self._housekeeping.stepped_at}
        if (writer := self._writer) is not None:
            steps["writer"] = lambda: writer.stepped_at
        return Heartbeats(steps, time.monotonic())

    def _app_context(self) -> AppContext:
        service = RegistrationService(
            deliver=self._inbox.put,
            config=lambda: self._config,
            tokens=lambda: self._tokens.tokens,
            ending=lambda: self._ending,
            activity=self._activity,
            monotonic=time.monotonic,
        )
        return AppContext(
            view=lambda: self._view or View(),
            activity=self._activity,
            unhealthy=self._heartbeats.problem,
            unready=self._unready,
            monotonic=time.monotonic,
            config=lambda: self._config,
            telemetry_path=self._flags.telemetry_path,
            external_url=self._flags.external_url,
            service=service,
            reload=self.reload if self._flags.enable_lifecycle else None,
            scraped=lambda at: self._inbox.put(Scraped(at)),
            configuration=lambda: self._configuration_status(self._reloading),
            flags=self._flags.shown,
            notice=self._flags.notice,
        )

    def hand_over(self, environment: str, operations: tuple[ListedOperation, ...]) -> None:
        """Follow these operations too, from now on."""
        registration = tuple(Registration(each) for each in operations)
        self._inbox.put(Register(environment, registration, again=False, reply=lambda _answer: None))

    def release(self, environment: str, operation_id: str) -> None:
        """Drop an operation that was handed over."""
        self._inbox.put(Release(environment, operation_id, reply=lambda _answer: None))

    def put_run(self, environment: str, group: str, run: str, changes: RunChanges) -> None:
        """Open a run of a group, or say more of it."""
        self._inbox.put(PutRun(environment, group, run, changes, reply=lambda _answer: None))

    # Reload.

    def reload(self, reply: ReloadReply = lambda _problem, _conflict: None) -> None:
        """Have the configuration loaded again; never blocks. `reply` as in `web.lifecycle`."""
        if self._reloading is None:
            reply("there is no configuration file to reload", False)  # noqa: FBT003 - nor would a restart help
        else:
            self._housekeeping.request(partial(self._reload, self._reloading, reply))

    def _reload(self, reloading: Reloading, reply: ReloadReply) -> None:
        broken = self._servers.reload_if_changed(whole=True)  # who asks says that the files are written
        reloading.reload(clock(), lambda problem, conflict: reply(problem or broken, conflict))

    def _apply(self, config: Config) -> None:
        """Apply a configuration. Raises StartError, and then nothing has changed."""
        if config.storage != self._config.storage:
            raise NeedsRestart("storage.path has changed: that takes a restart (nothing of the file is active)")
        keys = _read_keys(config, self._environ, self._config_file)
        tokens = TokenWatch(config.registration.tokens, self._environ)
        switch_clients = self._clients.prepare(config.environments, keys)
        switched, shown = threading.Event(), threading.Event()

        def switch() -> None:
            switch_clients()
            self._config, self._tokens = config, tokens
            self._loaded_at = self._note_loaded()
            switched.set()

        self._inbox.put(Reconfigure(config, keys, switch, shown.set))
        while not switched.wait(1.0):
            if self._ending:
                raise StartError("the exporter is ending")
        shown.wait(SHOWN_SECONDS)  # a disk that hangs must not stop the housekeeping
        self._keys.use(_watches(config, keys))
        self._sources.reconfigure(config)
        self._log_registration()

    def _note_loaded(self) -> float:
        at = time.time()
        self._activity.reload_successful.set(1)
        self._activity.reload_time.set(at)
        return at

    def _reload_tokens(self) -> None:
        problem = self._tokens.problem
        if self._tokens.reload_if_changed(time.time(), self._environ):
            log.info("using changed registration tokens")
        if self._tokens.problem and self._tokens.problem != problem:
            log.warning("registration token cannot be read, keeping the old one", error=self._tokens.problem)

    def _log_registration(self) -> None:
        if not self._config.registration.tokens:
            log.info("registration over HTTP is off: no tokens are configured (registration.tokens)")

    def _publish(self, view: View) -> None:
        self._view = view
        self._shown.set()

    # What the pages ask.

    def _configuration_status(self, reloading: Reloading | None) -> ConfigurationStatus:
        if reloading is None:
            return ConfigurationStatus(self._loaded_at)
        file, refused = str(reloading.file.path), reloading.refused
        return ConfigurationStatus(self._loaded_at, file, *(refused or ()))

    def _unready(self) -> str | None:
        if self._ending:
            return "ending"
        return None if self._view is not None else "not started yet"

    # Start and end.

    def _thread(self, name: str, target: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                target()
            except ExporterError as error:
                log.error("stopping: a thread cannot continue", thread=name, error=str(error))  # noqa: TRY400 - no fault of the program
                self.end(str(error), code=1)
            except BaseException:
                log.exception("stopping: a thread crashed", thread=name)
                self.end(f"{name} crashed", code=1)

        return threading.Thread(target=guarded, name=name, daemon=True)

    def run(self) -> int:
        """Serve until a signal comes; returns the exit code (0 after a signal, 1 after a crash)."""
        # Python's 5 ms would let a scrape that is joined hold up the pace by as much.
        sys.setswitchinterval(SWITCH_SECONDS)
        give_memory_back()
        signals_are_taken_over()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGHUP, lambda *_: self.reload())
        collect_rarely()
        for thread in self._threads:
            thread.start()
        self._wait_for_first_view()
        self._servers.open(self._app_context(), lambda reason: self.end(reason, code=1))
        self._log_registration()
        reason, code = self._wait_for_end()
        self._close(reason)
        return code

    def _wait_for_first_view(self) -> None:
        """Let requests that came during the start wait: before it they would be told that there is no operation."""
        ends_at = time.monotonic() + START_SECONDS  # a tracker that hangs is for the probes to tell
        while not self._shown.wait(START_TICK_SECONDS) and self._ends.empty() and time.monotonic() < ends_at:
            self._heartbeats.tick(time.monotonic())

    def _wait_for_end(self) -> tuple[str, int]:
        while True:
            self._heartbeats.tick(time.monotonic())
            try:
                return self._ends.get(timeout=TICK_SECONDS)
            except Empty:
                continue

    def end(self, reason: str, *, code: int = 0) -> None:
        """Make `run` end and return `code`; callable from any thread and from a signal handler."""
        self._ends.put((reason, code))

    def _on_signal(self, number: int, _frame: object) -> None:
        if self._ending:
            os._exit(1)  # asked twice: at once, whatever hangs
        self._ending = True
        self.end(signal.Signals(number).name)

    def _close(self, reason: str) -> None:
        self._ending = True
        ends_at = time.monotonic() + END_SECONDS

        def remaining(kept: float = 0.0) -> float:
            return max(0.0, ends_at - kept - time.monotonic())

        log.info("stopping", reason=reason)
        tracker = self._threads[0]
        self._inbox.put(Stop())
        tracker.join(LAST_ANSWERS_SECONDS)
        self._inbox.put(Close())
        tracker.join(remaining(WRITE_SECONDS + SERVE_SECONDS))
        self._housekeeping.stop()
        if self._writer is not None:
            self._writer.stop()
            self._threads[-1].join(remaining(SERVE_SECONDS))
        self._servers.close(remaining)
        log.info("stopped")


def _read_keys(config: Config, environ: Mapping[str, str], file: Path | None) -> dict[str, Secret]:
    keys = {each.name: read_key(each, environ) for each in config.environments}
    for each in config.environments:
        if problem := doubt(keys[each.name]):
            log.warning(
                "API key does not look like a key of Knock", environment=each.name, key=str(each.key), problem=problem
            )
    for secret in config.secret_files(file):
        if problem := exposure(secret):
            log.warning("file with a secret can be read by other users", file=str(secret), problem=problem)
    return keys


def _watches(config: Config, keys: Mapping[str, Secret]) -> dict[str, KeyWatch]:
    return {each.name: KeyWatch(each.key, keys[each.name]) for each in config.environments}


def _remembered(memory: Memory) -> set[tuple[str, SourceKey]]:
    return {
        (key.environment, membership.source)
        for key, kept in memory.operations.items()
        for membership in kept.memberships
    }
