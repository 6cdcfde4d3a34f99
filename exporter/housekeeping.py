"""Looks at what may change on disk, every few seconds, on a thread of its own."""

from __future__ import annotations

import time
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import structlog
from schedule import Scheduler

from exporter.tracking.messages import KeyRead

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from exporter.keys import KeyWatch
    from exporter.tracking.record import Moment

CHECK_SECONDS = 5
DRIFT_SECONDS = 2.0  # between local and monotonic time, from which on the jobs are planned anew
IDLE_SECONDS = 1.0

log = structlog.get_logger()


class Housekeeping:
    """Reads key sources, regularly and when asked, and tells the tracker.

    `schedule` plans by naive local time: when clocks go back its jobs would stand still for as long. So they are
    planned anew whenever local and monotonic time drift apart: by the end of summer time too. `stepped_at` (monotonic)
    is its heartbeat.
    """

    def __init__(
        self,
        watches: Mapping[str, KeyWatch],
        environ: Mapping[str, str],
        deliver: Callable[[KeyRead], None],
        clock: Callable[[], Moment],
    ) -> None:
        self.stepped_at = clock().mono
        self.scheduler = Scheduler()
        self._watches = watches
        self._environ = environ
        self._deliver = deliver
        self._clock = clock
        self._asked: SimpleQueue[str | None] = SimpleQueue()
        self._waiting: set[str] = set()
        self._problems: dict[str, str | None] = {}
        self._drift = 0.0
        self._plan()

    def _plan(self) -> None:
        self._drift = _drift(self._clock())
        self.scheduler.clear()
        for name in self._watches:
            self.scheduler.every(CHECK_SECONDS).seconds.do(self._guarded, partial(self._look, name))

    def _guarded(self, job: Callable[[], None]) -> None:
        # A job that raises would stay due and starve those after it.
        try:
            job()
        except Exception:
            log.exception("housekeeping failed, trying again at its next turn")

    def ask(self, environment: str) -> None:
        """Have a key source read now; a KeyRead is delivered whether it changed or not. Never blocks."""
        self._asked.put(environment)

    def stop(self) -> None:
        """End `run`."""
        self._asked.put(None)

    def run(self) -> None:
        """Be the housekeeping thread until `stop`."""
        while True:
            try:
                name = self._asked.get(timeout=IDLE_SECONDS)
            except Empty:
                name = ""
            if name is None:
                return
            if name:
                self._waiting.add(name)
            self.step()

    def step(self) -> None:
        """Do what is due now."""
        now = self._clock()
        self.stepped_at = now.mono
        if abs(_drift(now) - self._drift) > DRIFT_SECONDS:
            self._plan()
        self.scheduler.run_pending()
        for name in sorted(self._waiting):
            self._guarded(partial(self._answer, name))

    def _answer(self, name: str) -> None:
        key = self._watches[name].look(self._clock().wall, self._environ)
        if key is None and self._watches[name].unsettled:
            return  # half written, perhaps: the next step looks again
        self._waiting.discard(name)
        self._deliver(KeyRead(name, key))

    def _look(self, name: str) -> None:
        watch = self._watches[name]
        key = watch.look(self._clock().wall, self._environ)
        if key is not None:
            self._deliver(KeyRead(name, key))
        self._tell(name, watch.problem)

    def _tell(self, name: str, problem: str | None) -> None:
        if problem != self._problems.get(name):
            self._problems[name] = problem
            if problem:
                log.warning("API key cannot be read, keeping the old one", environment=name, error=problem)


def _drift(now: Moment) -> float:
    """Return how far local time, by which `schedule` plans, is ahead of monotonic time."""
    return now.wall + time.localtime(now.wall).tm_gmtoff - now.mono
