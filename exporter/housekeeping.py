"""Does what has to be done every few seconds, or when it is asked for, on a thread of its own."""

from __future__ import annotations

import time
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import structlog
from schedule import Scheduler

from exporter.tracking.messages import KeyRead

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from exporter.keys import KeyWatch, Secret
    from exporter.tracking.transitions import Moment

    Task = Callable[[], object]

CHECK_SECONDS = 5
DRIFT_SECONDS = 2.0  # between local and monotonic time, from which on the checks are planned again
IDLE_SECONDS = 1.0

log = structlog.get_logger()


class Housekeeping:
    """Runs `checks` every CHECK_SECONDS, `every_step` at each step (a second at most), and what is asked for at once.

    `schedule` plans by naive local time: when clocks go back its tasks would stand still for as long. So they are
    planned again whenever local and monotonic time drift apart: by the end of summer time too. `stepped_at` (monotonic)
    is its heartbeat.
    """

    def __init__(self, checks: Sequence[Task], every_step: Sequence[Task], clock: Callable[[], Moment]) -> None:
        self.stepped_at = clock().mono
        self.scheduler = Scheduler()
        self._checks = checks
        self._every_step = every_step
        self._clock = clock
        self._requested: SimpleQueue[Task | None] = SimpleQueue()
        self._drift = 0.0
        self._plan()

    def _plan(self) -> None:
        self._drift = _drift(self._clock())
        self.scheduler.clear()
        for check in self._checks:
            self.scheduler.every(CHECK_SECONDS).seconds.do(_guarded, check)

    def request(self, task: Task) -> None:
        """Have something done now. Never blocks; a signal handler may call it."""
        self._requested.put(task)

    def stop(self) -> None:
        """End `run`."""
        self._requested.put(None)

    def run(self) -> None:
        """Be the housekeeping thread until `stop`."""
        while True:
            try:
                task = self._requested.get(timeout=IDLE_SECONDS)
                if task is None:
                    return
                _guarded(task)
            except Empty:
                pass
            self.step()

    def step(self) -> None:
        """Do what is due now."""
        now = self._clock()
        self.stepped_at = now.mono
        if abs(_drift(now) - self._drift) > DRIFT_SECONDS:
            self._plan()
        self.scheduler.run_pending()
        for each in self._every_step:
            _guarded(each)


def _guarded(task: Task) -> None:
    # A task that raises would stay due and starve those after it.
    try:
        task()
    except Exception:
        log.exception("housekeeping failed, trying again at its next turn")


def _drift(now: Moment) -> float:
    """Return how far local time, by which `schedule` plans, is ahead of monotonic time."""
    return now.wall + time.localtime(now.wall).tm_gmtoff - now.mono


class KeyReader:
    """Reads the API keys of the environments, regularly and when asked, and tells the tracker of new ones."""

    def __init__(
        self, environ: Mapping[str, str], deliver: Callable[[KeyRead], None], clock: Callable[[], Moment]
    ) -> None:
        self._environ = environ
        self._deliver = deliver
        self._clock = clock
        self._watches: Mapping[str, KeyWatch] = {}
        self._waiting: set[str] = set()
        self._problems: dict[str, str | None] = {}

    def use(self, watches: Mapping[str, KeyWatch]) -> None:
        """Watch these from now on."""
        self._watches = watches

    def key_of(self, name: str) -> Secret:
        """Return the key of an environment as the tracker was last told."""
        return self._watches[name].current

    def check_for_changes(self) -> None:
        """Read all; tell of those that changed."""
        for name, watch in self._watches.items():
            _guarded(partial(self._check, name, watch))

    def _check(self, name: str, watch: KeyWatch) -> None:
        key = watch.reload_if_changed(self._clock().wall, self._environ)
        if key is not None:
            self._deliver(KeyRead(name, key))
        self._log(name, watch.problem)

    def request(self, name: str) -> None:
        """Have one read at the next `read_requested`, which tells of it whether it changed or not."""
        self._waiting.add(name)

    def read_requested(self) -> None:
        """Read those that were asked for."""
        for name in sorted(self._waiting):
            _guarded(partial(self._read_requested, name))

    def _read_requested(self, name: str) -> None:
        watch = self._watches.get(name)
        if watch is None:
            self._waiting.discard(name)
            return
        key = watch.reload_if_changed(self._clock().wall, self._environ)
        if key is None and watch.unsettled:
            return  # half written, perhaps: the next step looks again
        self._waiting.discard(name)
        self._deliver(KeyRead(name, key))

    def _log(self, name: str, problem: str | None) -> None:
        if problem != self._problems.get(name):
            self._problems[name] = problem
            if problem:
                log.warning("API key cannot be read, keeping the old one", environment=name, error=problem)
