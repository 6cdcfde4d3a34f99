"""Asks for the http lists of all environments, each at its interval and in a thread of its own.

A list whose server hangs delays no other. All decisions are made in `step`, in the thread that calls it: a fetch only
puts its outcome into a queue.
"""

from __future__ import annotations

import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

import structlog

from exporter.errors import Postponed
from exporter.knock.memory_budget import MemoryBudget
from exporter.sources.http import fetch
from exporter.sources.listing import BrokenList
from exporter.tracking.memberships import SourceKey, SourceKind
from exporter.tracking.messages import Listed, Unread
from exporter.values import show_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from exporter.config import Config, ListedOperation
    from exporter.config.settings import HttpSource
    from exporter.knock.memory_budget import Reservation
    from exporter.tracking.transitions import Moment

    Outcome = tuple[ListedOperation, ...] | BrokenList | Postponed
    Fetch = Callable[[HttpSource, tuple[str, ...], Reservation], tuple[ListedOperation, ...]]
    Start = Callable[[Callable[[], None]], None]

log = structlog.get_logger()


class Key(NamedTuple):
    """What makes a list one."""

    environment: str
    url: str


class ListPoll:
    """How one list is asked for, from when on; a changed list is another one."""

    def __init__(self, key: Key, source: HttpSource, labels: tuple[str, ...]) -> None:
        self.key = key
        self.source = source
        self.labels = labels
        self.due = 0.0  # monotonic; at once
        self.problem: str | None = None
        self.postponed = False  # was, and that is told


def _body(key: Key) -> tuple[str, str]:
    return f"{key.environment} {key.url}", ""  # each list has its own share of the budget


def in_thread(work: Callable[[], None]) -> None:
    """Have something done in a thread of its own; nobody waits for it, at the end neither."""
    threading.Thread(target=work, name="list", daemon=True).start()


class HttpLists:
    """All http lists. `remembered` are the sources known from before a restart; `budget` is for large lists."""

    def __init__(  # noqa: PLR0913  what it works with, by name
        self,
        config: Config,
        deliver: Callable[[Listed | Unread], None],
        remembered: Iterable[tuple[str, SourceKey]] = (),
        budget: MemoryBudget | None = None,
        *,
        fetch: Fetch = fetch,
        start: Start = in_thread,
    ) -> None:
        self._deliver = deliver
        self._budget = budget or MemoryBudget()
        self._fetch = fetch
        self._start = start
        self._outcomes: SimpleQueue[tuple[ListPoll, Outcome]] = SimpleQueue()
        self._polls: dict[Key, ListPoll] = {}
        self._under_way: set[Key] = set()
        self._listed = {Key(name, source.name) for name, source in remembered if source.kind is SourceKind.HTTP}
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        """Go by another configuration: what a removed list named is dropped at once, a changed list is asked again."""
        before, self._polls = self._polls, {}
        for environment in config.environments:
            for source in environment.operations_http:
                key = Key(environment.name, source.url)
                poll = before.get(key)
                same = poll is not None and (poll.source, poll.labels) == (source, config.labels)
                self._polls[key] = poll if poll and same else ListPoll(key, source, config.labels)
        names = {each.name for each in config.environments}
        for key in sorted(self._listed - self._polls.keys()):
            if key.environment in names:
                self._listed.discard(key)
                self._deliver(Listed(key.environment, SourceKey(SourceKind.HTTP, key.url), ()))

    def step(self, now: Moment) -> None:
        """Deliver what came back, and ask for what is due."""
        try:
            while True:
                self._take(*self._outcomes.get_nowait())
        except Empty:
            pass
        for key, poll in self._polls.items():
            if poll.due <= now.mono and key not in self._under_way and not self._budget.reserve(*_body(key)):
                poll.due = now.mono + poll.source.interval
                self._request(poll)

    def _request(self, poll: ListPoll) -> None:
        self._under_way.add(poll.key)
        try:
            self._start(lambda: self._outcomes.put((poll, self._outcome(poll))))
        except RuntimeError:  # no thread can be had
            self._outcomes.put((poll, BrokenList("no thread can be started")))

    def _outcome(self, poll: ListPoll) -> Outcome:
        try:
            with self._budget.reservation(*_body(poll.key)) as reservation:
                return self._fetch(poll.source, poll.labels, reservation)
        except (BrokenList, Postponed) as error:
            return error.with_traceback(None)
        except Exception as error:
            # Whatever it is, it has to come back: the list would be under way for ever.
            log.exception("fetching a list of operations failed", environment=poll.key.environment)
            return BrokenList(f"unforeseen {type(error).__name__}")

    def _take(self, poll: ListPoll, outcome: Outcome) -> None:
        self._under_way.discard(poll.key)
        if self._polls.get(poll.key) is not poll:
            return
        if isinstance(outcome, Postponed):
            poll.due = 0.0  # at once: it is not asked before there is room
            self._log_postponed(poll, outcome)
            return
        environment = poll.key.environment
        self._log(poll, str(outcome) if isinstance(outcome, BrokenList) else None)
        if isinstance(outcome, BrokenList):
            self._deliver(Unread(environment, SourceKey(SourceKind.HTTP, poll.key.url), str(outcome)))
            return
        self._listed.add(poll.key)
        self._deliver(Listed(environment, SourceKey(SourceKind.HTTP, poll.key.url), outcome))

    def _log_postponed(self, poll: ListPoll, outcome: Postponed) -> None:
        if not poll.postponed:
            poll.postponed = True
            about = {"environment": poll.key.environment, "url": show_url(poll.key.url)}
            log.warning("not enough memory for a list of operations, asking again later", error=str(outcome), **about)

    def _log(self, poll: ListPoll, problem: str | None) -> None:
        before, poll.problem = poll.problem, problem
        about = {"environment": poll.key.environment, "url": show_url(poll.key.url)}
        if problem is not None and problem != before:
            log.warning("list of operations cannot be used, keeping its last list", error=problem, **about)
        elif problem is None and before is not None:
            log.info("list of operations is good again", **about)
