"""Builds the whole, wires it, and ends it in order. The only place that knows everyone."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING

import structlog

from exporter import __version__
from exporter.housekeeping import Housekeeping
from exporter.keys import KeyWatch
from exporter.knock.connect import connect, read_key
from exporter.knock.pool import FetchPool
from exporter.metrics.activity import Activity
from exporter.metrics.exposition import View
from exporter.tracking.messages import Close, HandOver, Message, Outside, Request, Stop
from exporter.tracking.record import Moment
from exporter.tracking.tracker import Tracker, run
from exporter.web.app import House, make_app
from exporter.web.server import WebServer, bind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from exporter.config import Config, ListedOperation
    from exporter.keys import Secret

HEARTBEAT_SECONDS = 60.0  # a thread that did not step for so long is not healthy
LAST_ANSWERS_SECONDS = 1.5
JOIN_SECONDS = 1.0
SWITCH_SECONDS = 0.001  # how long a thread may keep others from running

log = structlog.get_logger()


def clock() -> Moment:
    """Read both clocks."""
    return Moment(time.monotonic(), time.time())


@dataclass(frozen=True, slots=True)
class Flags:
    """What the command line settles about the process."""

    listen_addresses: Sequence[tuple[str, int]]
    telemetry_path: str = "/metrics"


class Daemon:
    """The exporter of one configuration, from start to end."""

    def __init__(self, config: Config, flags: Flags, environ: Mapping[str, str]) -> None:
        self._ends: SimpleQueue[tuple[str, int]] = SimpleQueue()
        self._inbox: SimpleQueue[Message] = SimpleQueue()
        self._view: View | None = None
        self._ending = False
        self._sockets = [bind(*address) for address in flags.listen_addresses]
        self.addresses = [socket.getsockname()[:2] for socket in self._sockets]
        keys = {each.name: read_key(each, environ) for each in config.environments}
        self._activity = Activity(revision=environ.get("KNOCK_EXPORTER_REVISION", "unknown"))
        self._activity.reload_successful.set(1)
        self._activity.reload_time.set(time.time())
        self._clients = {each.name: connect(each, keys[each.name]) for each in config.environments}
        self._pools = {
            each.name: FetchPool(each.name, each.max_in_flight, self._clients[each.name].fetch, self._inbox.put)
            for each in config.environments
        }
        watches = {each.name: KeyWatch(each.key, keys[each.name]) for each in config.environments}
        self._housekeeping = Housekeeping(watches, environ, self._inbox.put, clock)
        outside = Outside(self._fetch, self._housekeeping.ask, self._use_key, self._publish, random.random)
        self._tracker = Tracker(config, keys, outside, self._activity, clock())
        self._threads = [
            self._thread("tracker", lambda: run(self._tracker, self._inbox, clock)),
            self._thread("housekeeping", self._housekeeping.run),
        ]
        house = House(
            view=lambda: self._view or View(),
            activity=self._activity,
            unhealthy=self._unhealthy,
            unready=self._unready,
            monotonic=time.monotonic,
            telemetry_path=flags.telemetry_path,
        )
        self._web = WebServer(make_app(house), self._sockets, lambda reason: self.end(reason, code=1))

    def hand_over(self, environment: str, operations: tuple[ListedOperation, ...]) -> None:
        """Follow these operations too, from now on."""
        self._inbox.put(HandOver(environment, operations))

    # What the tracker asks of others.

    def _fetch(self, request: Request) -> None:
        self._pools[request.environment].submit(request)

    def _use_key(self, environment: str, key: Secret) -> None:
        self._clients[environment].use_key(key)

    def _publish(self, view: View) -> None:
        self._view = view

    # What the pages ask.

    def _unhealthy(self) -> str | None:
        now = time.monotonic()
        steps = {"tracker": self._tracker.stepped_at, "housekeeping": self._housekeeping.stepped_at}
        late = [name for name, stepped_at in steps.items() if now - stepped_at > HEARTBEAT_SECONDS]
        return f"no step for {HEARTBEAT_SECONDS:.0f} s: {', '.join(late)}" if late else None

    def _unready(self) -> str | None:
        if self._ending:
            return "ending"
        return None if self._view is not None else "not started yet"

    # Start and end.

    def _thread(self, name: str, target: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                target()
            except BaseException:
                log.exception("thread crashed, ending", thread=name)
                self.end(f"{name} crashed", code=1)

        return threading.Thread(target=guarded, name=name, daemon=True)

    def run(self) -> int:
        """Serve until a signal comes; returns the exit code (0 after a signal, 1 after a crash)."""
        # Python's 5 ms would let a scrape that is joined hold up the pace by as much.
        sys.setswitchinterval(SWITCH_SECONDS)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        for thread in self._threads:
            thread.start()
        self._web.start()
        for host, port, *_ in self.addresses:
            log.info("listening", address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}", version=__version__)
        reason, code = self._ends.get()
        self._close(reason)
        return code

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
        log.info("ending", reason=reason)
        tracker = self._threads[0]
        self._inbox.put(Stop())
        tracker.join(LAST_ANSWERS_SECONDS)
        self._inbox.put(Close())
        tracker.join(JOIN_SECONDS)
        self._housekeeping.stop()
        self._web.stop()
        log.info("ended")
