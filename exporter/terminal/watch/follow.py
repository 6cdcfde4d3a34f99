"""Who is asked, and the loop around it: Knock itself, paced, or a running exporter, without one call more to Knock."""

from __future__ import annotations

import math
import queue
import random
import threading
import time
from dataclasses import dataclass, replace
from http import HTTPStatus
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, Protocol

from exporter.errors import KnockError, RateLimited
from exporter.operation import Status, is_operation_id
from exporter.terminal.exit_codes import ExitCode
from exporter.terminal.exporter_api import ApiError
from exporter.terminal.watch.core import Frame, Watched, WatchOutcome
from exporter.terminal.watch.documents import watched_of
from exporter.tracking.pacing import RateLimiter
from exporter.tracking.transitions import LOST, Moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from exporter.operation import Operation
    from exporter.terminal.exporter_api import ExporterApi
    from exporter.terminal.watch.operations import WatchedOperations
    from exporter.terminal.watch.run import WatchedRun

STEP_SECONDS = 1.0  # the longest without a look at what is shown
SHOW_SECONDS = 0.25  # the shortest
READ_SECONDS, READ_SECONDS_OF_MANY = 2.0, 5.0
FEW = 20  # operations that an exporter is asked for one by one; more are looked up in its list
DRAWN = 24
_REFUSED = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


@dataclass(frozen=True, slots=True)
class WatchClock:
    """Both clocks, chance, and how to wait."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    chance: Callable[[], float] = random.random
    sleep: Callable[[float], object] = time.sleep

    @property
    def now(self) -> Moment:
        """The moment on both."""
        return Moment(self.monotonic(), self.wall())


class Watching(Protocol):
    """What is watched, and who is asked about it."""

    @property
    def state(self) -> WatchedOperations | WatchedRun:
        """What is known."""

    def ended(self) -> Sequence[Watched]:
        """Return the operations that the result names."""

    def step(self, seconds: float) -> None:
        """Ask for what is due; take so long at most where nothing is."""


def follow(
    watching: Watching, show: Callable[[Frame, Moment], None], clock: WatchClock, until: float, *, allow_errors: bool
) -> WatchOutcome:
    """Watch to the end, or until then (monotonic), and show what is known several times a second."""
    shown_at = -math.inf
    while True:
        outcome, now = watching.state.outcome(allow_errors=allow_errors), clock.now
        if outcome is not None or now.mono - shown_at >= SHOW_SECONDS:
            show(watching.state.frame(), now)
            shown_at = now.mono
        if outcome is not None:
            return outcome
        left = min(until - now.mono, STEP_SECONDS)
        if left <= 0:
            return WatchOutcome(ExitCode.TIMEOUT, "still running when --timeout passed")
        watching.step(left)


# Knock itself.


class Fetched(NamedTuple):
    """What became of a fetch that was sent at a time (monotonic) and took so many seconds."""

    id: str
    sent_at: float
    seconds: float
    outcome: Operation | KnockError


class Fetches(Protocol):
    """Fetches side by side."""

    def start(self, operation_id: str) -> None:
        """Begin to fetch an operation."""

    def wait(self, seconds: float) -> Fetched | None:
        """Return the next that is here, None where none is within these seconds."""


class FetchThreads:
    """Fetches in threads that nobody waits for at the end: Ctrl-C ends at once."""

    def __init__(self, fetch: Callable[[str], Operation], threads: int) -> None:
        self._fetch = fetch
        self._ids: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._fetched: queue.SimpleQueue[Fetched] = queue.SimpleQueue()
        for _ in range(threads):
            threading.Thread(target=self._work, daemon=True).start()

    def start(self, operation_id: str) -> None:
        """Begin to fetch an operation."""
        self._ids.put(operation_id)

    def wait(self, seconds: float) -> Fetched | None:
        """Return the next that is here, None where none is within these seconds."""
        try:
            return self._fetched.get(timeout=seconds)
        except queue.Empty:
            return None

    def _work(self) -> None:
        while True:
            operation_id, sent_at = self._ids.get(), time.monotonic()
            outcome: Operation | KnockError
            try:
                outcome = self._fetch(operation_id)
            except KnockError as error:
                outcome = error
            self._fetched.put(Fetched(operation_id, sent_at, time.monotonic() - sent_at, outcome))


class KnockWatching:
    """Operations that Knock is asked about, at `limit` requests a second at most, `together` of them at once.

    `explain` says what an error means for who has to mend it.
    """

    def __init__(  # noqa: PLR0913 - by name
        self,
        state: WatchedOperations,
        fetches: Fetches,
        clock: WatchClock,
        *,
        limit: float,
        together: int,
        explain: Callable[[KnockError], str],
    ) -> None:
        self.state = state
        self._fetches, self._clock, self._together, self._explain = fetches, clock, together, explain
        self._limiter = RateLimiter(limit)
        self._under_way: set[str] = set()

    def ended(self) -> Sequence[Watched]:
        """Return all of them."""
        return list(self.state.watched.values())

    def step(self, seconds: float) -> None:
        """Send what is due and may be sent, and take in the next answer."""
        began = self._clock.monotonic()
        next_start = self._send(began)
        wait = max(min(next_start, began + seconds) - self._clock.monotonic(), 0.0)
        if (fetched := self._fetches.wait(wait)) is not None:
            self._under_way.discard(fetched.id)
            self._take_in(fetched)

    def _send(self, now: float) -> float:
        """Start what may start now; return when the next one may."""
        while len(self._under_way) < self._together:
            due, operation_id = self.state.next_due(self._under_way)
            start = max(due, self._limiter.next_start)
            if start > now:
                return start
            self._limiter.start(now)
            self._under_way.add(operation_id)
            self._fetches.start(operation_id)
        return math.inf

    def _take_in(self, fetched: Fetched) -> None:
        at, chance, outcome = self._clock.now, self._clock.chance(), fetched.outcome
        if isinstance(outcome, RateLimited):
            self._limiter.limited(at.mono, fetched.sent_at, outcome.retry_after, chance)
        elif not isinstance(outcome, KnockError):
            self._limiter.accepted(fetched.sent_at)
            self.state = self.state.succeeded(outcome, at, fetched.seconds, chance)
            return
        self.state = self.state.failed(fetched.id, outcome, self._explain(outcome), at, chance)


# A running exporter.


class ApiWatching:
    """Operations that an exporter is asked about."""

    def __init__(self, state: WatchedOperations, api: ExporterApi, clock: WatchClock) -> None:
        self.state = state
        self._api, self._clock = api, clock
        self._next_read = clock.monotonic()

    def ended(self) -> Sequence[Watched]:
        """Return all of them."""
        return list(self.state.watched.values())

    def step(self, seconds: float) -> None:
        """Ask for all that have not ended, every few seconds."""
        now = self._clock.monotonic()
        if now < self._next_read:
            self._clock.sleep(min(self._next_read - now, seconds))
            return
        due = [
            key for key, each in self.state.watched.items() if each.tracked.due is not None and each.tracked.due <= now
        ]
        try:
            self._read(due)
        except ApiError as error:
            refused = error.attempt.status in _REFUSED
            self.state = self.state.unreachable(str(error), self._clock.now, refused=refused)
        self._next_read = self._clock.monotonic() + (READ_SECONDS if len(due) <= FEW else READ_SECONDS_OF_MANY)

    def _read(self, due: list[str]) -> None:
        missing = set(due)
        if len(due) > FEW:
            for document in self._api.operations(self.state.environment, status="unfinished"):
                if document.get("id") in missing:
                    missing.remove(document["id"])
                    self.state = self.state.reported(document, self._clock.now)
                if not missing:
                    return
        for each in due:
            if each in missing:
                self._read_one(each)

    def _read_one(self, operation_id: str) -> None:
        try:
            document = self._api.operation(self.state.environment, operation_id)
        except ApiError as error:
            if error.attempt.status != HTTPStatus.NOT_FOUND:
                raise
            self.state = self.state.missing(operation_id, self._clock.now, self._clock.chance())
        else:
            self.state = self.state.reported({**document, "id": operation_id}, self._clock.now)


class RunWatching:
    """A run that an exporter is asked about: its group, and those of its operations that are drawn."""

    def __init__(self, state: WatchedRun, api: ExporterApi, clock: WatchClock) -> None:
        self.state = state
        self._api, self._clock = api, clock
        self._next_read = clock.monotonic()

    def step(self, seconds: float) -> None:
        """Ask for the group, every few seconds."""
        now = self._clock.monotonic()
        if now < self._next_read:
            self._clock.sleep(min(self._next_read - now, seconds))
            return
        try:
            self._read()
        except ApiError as error:
            refused = error.attempt.status in _REFUSED
            self.state = self.state.unreachable(str(error), self._clock.monotonic(), refused=refused)
        self._next_read = self._clock.monotonic() + READ_SECONDS

    def _read(self) -> None:
        run = self.state
        try:
            group = self._api.group(run.environment, run.name)
        except ApiError as error:
            if error.attempt.status != HTTPStatus.NOT_FOUND:
                raise
            self.state = run.reported(None, (), self._clock.monotonic())
            return
        after = run.reported(group, (), self._clock.monotonic())
        if after.current is not None:
            after = run.reported(group, tuple(islice(self._members(limit=str(DRAWN)), DRAWN)), self._clock.monotonic())
        elif after.other is not None and not after.began:
            # It has members since it was opened: where another one is open now, it is over.
            after = replace(after, past=any(self._members(limit="1")))
        self.state = after

    def ended(self) -> Sequence[Watched]:
        """Ask which of its operations failed, were lost or have errors, as far as they are followed still."""
        found: dict[str, Watched] = {}
        if self.state.current is None or self.state.reach.failing_since is not None:
            return []
        for status in (Status.FAILED, LOST, "with_errors"):
            for each in self._members(status=str(status)):
                found.setdefault(each.id, each)
        return list(found.values())

    def _members(self, **filters: str) -> Iterator[Watched]:
        run = self.state
        for document in self._api.operations(run.environment, group=run.name, run=run.id, **filters):
            if is_operation_id(str(document.get("id"))):
                yield watched_of(document, run.environment, self._clock.now)
