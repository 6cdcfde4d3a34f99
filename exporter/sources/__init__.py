"""Where ids come from that are kept outside of the configuration: files, and addresses that list them.

listing    what the forms of a list share: entries, bounds, the first fault
lists      a list's bytes → operations, or BrokenList; plain text
groups     Prometheus' target groups, in YAML and JSON
files      which files there are, when one counts, what happens when it breaks or goes
http       one list from an address
polling    all of those, each at its interval

`Sources` is what the housekeeping thread calls; only fetches from addresses have threads of their own.
"""

from __future__ import annotations

from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from exporter.sources.files import FileLists
from exporter.sources.polling import HttpLists
from exporter.tracking.messages import Reread
from exporter.tracking.roster import SourceKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from exporter.config import Config
    from exporter.tracking.messages import Listed, Unread
    from exporter.tracking.record import Moment
    from exporter.tracking.roster import Source


class Sources:
    """All files and http lists of all environments.

    `deliver` is the tracker's inbox; `remembered` are the sources that are known from before a restart, by environment.
    """

    def __init__(
        self,
        config: Config,
        deliver: Callable[[Listed | Reread | Unread], None],
        remembered: Iterable[tuple[str, Source]] = (),
    ) -> None:
        remembered = list(remembered)
        self._deliver = deliver
        self._files = FileLists(config, remembered)
        self._http = HttpLists(config, deliver, remembered)
        self._configs: SimpleQueue[Config] = SimpleQueue()
        self._looked = False

    def reconfigure(self, config: Config) -> None:
        """Go by another configuration from the next step or look on. From any thread."""
        self._configs.put(config)

    def step(self, now: Moment) -> None:
        """Ask for the http lists that are due, and deliver what came back; about each second."""
        self._apply()
        self._http.step(now)
        if not self._looked:  # a start does not wait for the first look
            self.look(now)

    def look(self, now: Moment) -> None:
        """Look at all files; every five seconds."""
        self._looked = True
        self._apply()
        for message in self._files.look(now):
            self._deliver(message)
        for environment in self._files.sound():
            self._deliver(Reread(environment, SourceKind.FILES))

    def _apply(self) -> None:
        try:
            while True:
                config = self._configs.get_nowait()
                self._files.reconfigure(config)
                self._http.reconfigure(config)
        except Empty:
            return
