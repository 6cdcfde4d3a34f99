"""Where ids come from that are kept outside of the configuration: files, and addresses that list them.

listing    what the forms of a list share: entries, bounds, the first fault
lists      a list's bytes → operations, or BrokenList; plain text
groups     Prometheus' target groups, in YAML and JSON
files      which files there are, when one counts, what happens when it breaks or goes
http       one list from an address
polling    all of those, each at its interval

`Sources` is what the housekeeping thread calls. Fetches from addresses and looks at files have threads of their own: a
network file system that hangs must not stop the housekeeping.
"""

from __future__ import annotations

import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import structlog

from exporter.sources.files import FileLists
from exporter.sources.polling import HttpLists, in_thread
from exporter.tracking.memberships import SourceKind
from exporter.tracking.messages import Reread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from exporter.config import Config
    from exporter.knock.memory_budget import MemoryBudget
    from exporter.sources.polling import Start
    from exporter.tracking.memberships import SourceKey
    from exporter.tracking.messages import Listed, Unread
    from exporter.tracking.transitions import Moment

HANGING_SECONDS = 60.0

log = structlog.get_logger()


class Sources:
    """All files and http lists of all environments.

    `deliver` is the tracker's inbox; `remembered` are the sources that are known from before a restart, by environment.
    Large http lists are reserved in `budget`.
    """

    def __init__(
        self,
        config: Config,
        deliver: Callable[[Listed | Reread | Unread], None],
        remembered: Iterable[tuple[str, SourceKey]] = (),
        budget: MemoryBudget | None = None,
        *,
        start: Start = in_thread,
    ) -> None:
        remembered = list(remembered)
        self._deliver = deliver
        self._start = start
        self._files = FileLists(config, remembered)
        self._http = HttpLists(config, deliver, remembered, budget)
        self._configs: SimpleQueue[Config] = SimpleQueue()
        self._configs_of_files: SimpleQueue[Config] = SimpleQueue()
        self._looked_at: float | None = None
        self._looking = threading.Event()
        self._hangs = False

    def reconfigure(self, config: Config) -> None:
        """Go by another configuration from the next step or look on. From any thread."""
        self._configs.put(config)
        self._configs_of_files.put(config)

    def step(self, now: Moment) -> None:
        """Ask for the http lists that are due, and deliver what came back; about each second."""
        for config in _taken(self._configs):
            self._http.reconfigure(config)
        self._http.step(now)
        if self._looked_at is None:  # a start does not wait for the first look
            self.check_for_changes(now)

    def check_for_changes(self, now: Moment) -> None:
        """Begin to look at all files, unless the last look is still under way; every five seconds."""
        if self._looking.is_set():
            self._log_hanging(now)
            return
        self._looked_at, self._hangs = now.mono, False
        self._looking.set()
        try:
            self._start(lambda: self._check(now))
        except RuntimeError:  # no thread can be had: the next look tries again
            self._looking.clear()
            raise

    def _check(self, now: Moment) -> None:
        try:
            for config in _taken(self._configs_of_files):
                self._files.reconfigure(config)
            for message in self._files.check_for_changes(now):
                self._deliver(message)
            for environment in self._files.sound():
                self._deliver(Reread(environment, SourceKind.FILES))
        except Exception:
            log.exception("reading operations_files failed, trying again in a few seconds")
        finally:
            self._looking.clear()

    def _log_hanging(self, now: Moment) -> None:
        if not self._hangs and self._looked_at is not None and now.mono - self._looked_at >= HANGING_SECONDS:
            self._hangs = True
            log.warning("reading operations_files hangs (network file system?), changes are not seen meanwhile")


def _taken(configs: SimpleQueue[Config]) -> Iterator[Config]:
    try:
        while True:
            yield configs.get_nowait()
    except Empty:
        return
