"""The one thread that owns what changes.

Others put a message into the inbox. `handle` takes a message in, `advance` starts what is due and publishes: both get
the time as an argument and do no I/O, so a test drives them through hours in milliseconds. `run` is the thread.
"""

from __future__ import annotations

import gc
import math
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import structlog

from exporter.errors import ConnectionLost, KeyRefused, KnockError, NotFound, Postponed, RateLimited
from exporter.operation import NIL_ID, Operation
from exporter.tracking import transitions
from exporter.tracking.accounting import ResponseAccounting
from exporter.tracking.book import Book
from exporter.tracking.cycle import Changed, Cycle
from exporter.tracking.handlers import MessageHandlers
from exporter.tracking.history import recorded, without_points
from exporter.tracking.intake import Intake
from exporter.tracking.memory import Memory
from exporter.tracking.messages import (
    Close,
    Exchange,
    KeyRead,
    Listed,
    PollRequest,
    PollResponse,
    PutRun,
    Reconfigure,
    Register,
    Release,
    Reread,
    Saved,
    Scraped,
    Stop,
    Unread,
)
from exporter.tracking.pacing import ScrapeRhythm
from exporter.tracking.registry import EnvironmentRegistry
from exporter.tracking.snapshot import EnvironmentStatus
from exporter.tracking.transitions import Circumstances, Moment
from exporter.wording import first_few

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from exporter.config import Config
    from exporter.keys import Secret
    from exporter.metrics.exposition import View
    from exporter.metrics.own import Activity
    from exporter.tracking.environment import NextPoll, Upstream, WatchedEnvironment
    from exporter.tracking.messages import Message, Outside
    from exporter.tracking.slices import Job

STEP_SECONDS = 1.0  # the heart beats at least this often
SETTLED_TOGETHER = 2000  # operations
MESSAGES_A_STEP = 1000  # so that a flood of them stops neither asking nor publishing
POSTPONED_SECONDS = 1.0  # until an answer that memory did not do for is asked for again
ROUND_SECONDS = 1.0  # between looks at what waits, and at what is old

log = structlog.get_logger()


class Tracker:
    """All state about operations and how they are asked for; `stepped_at` (monotonic) is its heartbeat."""

    def __init__(  # noqa: PLR0913 - what it is made of, by name
        self,
        config: Config,
        keys: Mapping[str, Secret],
        outside: Outside,
        activity: Activity,
        now: Moment,
        *,
        memory: Memory | None = None,
    ) -> None:
        memory = memory or Memory()
        self.ended = False
        self.stepped_at = now.mono
        self._outside = outside
        self._activity = activity
        self._changed = changed = Changed()
        environments: dict[str, WatchedEnvironment] = {}
        self._environments = environments
        self._book = Book(environments, config.labels, activity, changed)
        self._intake = Intake(environments, self._book, changed, activity, memory.tombstones)
        self._registry = EnvironmentRegistry(environments, memory, self._book, self._intake, changed, activity)
        self._cycle = Cycle(changed, self._registry.collect, outside.save, self._render, outside.publish)
        self._handlers = MessageHandlers(environments, self._intake, self._cycle, activity, outside.chance)
        self._accounting = ResponseAccounting(activity, outside)
        self._scrape_rhythm = ScrapeRhythm()
        self._registry.configure(config, keys, now)
        self._stopping = False
        self._statuses: tuple[EnvironmentStatus, ...] = ()
        self._next_round = now.mono

    @property
    def operations(self) -> int:
        """How many operations are tracked."""
        return len(self._book)

    # What comes in.

    def handle(self, message: Message, now: Moment) -> None:
        """Take one message in."""
        match message:
            case PollResponse():
                self._take_response(message, now)
            case Scraped():
                self._scrape_rhythm.scraped(message.at)
            case KeyRead():
                self._take_key(message, now)
            case Listed() | Reread() | Unread() | Register() | Release() | PutRun():
                self._handlers.take(message, now)
            case Reconfigure():
                self._reconfigure(message, now)
            case Exchange():
                message.switch()
            case Saved():
                self._take_saved(message, now)
            case Stop():
                self._stopping = True
                # Has a commit made: its `Saved` tells whether the last one has to hold everything.
                self._cycle.when_shown(lambda _committed: None)
            case Close():
                self._stopping = self.ended = True

    def _reconfigure(self, message: Reconfigure, now: Moment) -> None:
        """Apply a configuration."""
        message.switch()
        self._registry.configure(message.config, message.keys, now)
        self._cycle.wait_for_reload(now)
        self._intake.slices.put(object(), self._reply_when_shown(message), now)

    def _reply_when_shown(self, message: Reconfigure) -> Job:
        """Answer when all that the configuration lists is shown: this comes after its lists."""
        yield
        self._cycle.when_shown(lambda _committed: message.reply())

    def _take_saved(self, message: Saved, now: Moment) -> None:
        if message.ok:
            self._activity.state_written.set(now.wall)
        else:
            self._activity.state_failures.inc()
        self._cycle.saved(message)

    def _take_response(self, answer: PollResponse, now: Moment) -> None:
        environment = self._environments.get(answer.request.environment)
        if environment is None or not environment.owns(answer.request):
            return  # the environment was taken out of the configuration meanwhile
        self._changed.view = True  # what pages tell of the environment has
        if environment.end(answer.request.id, lost=isinstance(answer.outcome, ConnectionLost)):
            self._repeat(environment, answer, now)
            return
        self._accounting.account(environment, answer, now)
        if not answer.request.checks_key:
            self._take_outcome(environment, answer, now)

    def _repeat(self, environment: WatchedEnvironment, answer: PollResponse, now: Moment) -> None:
        """Ask again at once, in a slot of its own: that a kept connection had ended says nothing of Knock."""
        self._accounting.account_lost(environment, answer, now)
        if answer.request.checks_key:
            environment.check_key_again()
        elif (operation := environment.operations.get(answer.request.id)) is not None:
            environment.plan(operation)

    def _take_outcome(self, environment: WatchedEnvironment, answer: PollResponse, now: Moment) -> None:
        operation, outcome = environment.operations.get(answer.request.id), answer.outcome
        if operation is None or operation.tracked.final:
            return
        if isinstance(outcome, Postponed):
            environment.plan(operation, now.mono + POSTPONED_SECONDS)
            return
        operation.history = recorded(operation.history, answer.seconds, outcome, now.wall)
        other_knock = not environment.requested_here(answer.request)
        other_key = isinstance(outcome, NotFound) and answer.request.key_epoch != environment.key_epoch
        if other_knock or other_key:  # which proves nothing
            environment.plan(operation)
            return
        if isinstance(outcome, (RateLimited, KeyRefused)):
            self._book.touch(operation.key)
            environment.plan(operation)  # the upstream's trouble, not the operation's: it stays due
            return
        polling = self._scrape_rhythm.adapted(environment.settings.polling, now.mono)
        at = Circumstances(now, self._outside.chance(), polling, environment.memory.epoch, environment.trusted)
        if isinstance(outcome, Operation):
            self._intake.update(operation, transitions.succeeded(operation.tracked, outcome, at), now)
            if operation.tracked.clean:
                operation.history = without_points(operation.history)
        else:
            self._intake.update(operation, transitions.failed(operation.tracked, outcome, at), now)
            self._log_missing(environment, operation.tracked, outcome)
        environment.plan(operation)

    def _log_missing(self, environment: WatchedEnvironment, after: transitions.Tracked, outcome: KnockError) -> None:
        if after.lost:
            log.warning(
                "operation is lost: Knock no longer knows it", environment=environment.name, operation_id=after.key.id
            )
        hint = isinstance(outcome, NotFound) and not environment.trusted and not environment.hinted
        if hint and environment.only_missing:
            environment.hinted = True
            log.warning(
                "Knock knows none of the operations: key of another environment, or wrong branch?",
                environment=environment.name,
                operations=first_few(environment.operations),
            )

    def _take_key(self, message: KeyRead, now: Moment) -> None:
        environment = self._environments.get(message.environment)
        if environment is None:
            return
        environment.upstream.circuit_breaker.key_was_read(now.mono)
        if message.key is not None and message.key != environment.key:
            log.info("using the changed API key", environment=environment.name)
            self._outside.use_key(environment.name, message.key)
            self._registry.use_key(environment, message.key, now)

    # What goes out.

    def advance(self, now: Moment) -> float:
        """Start what is due and publish; return when there is more to do (monotonic; inf: when a message comes)."""
        self.stepped_at = now.mono
        self._activity.tracker_stepped.set(now.wall)
        self._run_periodic(now)
        is_due = now.mono >= self._cycle.due
        # Lists wait for the next step: with a view in the same one, messages would be held up for too long.
        self._intake.slices.step(now, urgent_only=is_due or self._changed.is_much)
        upstreams = self._registry.upstreams
        starts = [math.inf if self._stopping else self._start_due(upstream, now) for upstream in upstreams]
        if is_due:
            self._cycle.step(now)
        idle = not any(environment.in_flight for environment in self._environments.values())
        if self._stopping and idle and not self._cycle.is_awaited:
            self.ended = True
        if self.ended:
            self._intake.slices.finish_urgent(now)
            self._cycle.close(now)
            return now.mono
        if self._intake.slices.waiting(urgent_only=self._changed.is_much):
            starts.append(now.mono)
        return min(self._cycle.due, self._intake.next_step(self._next_round), *starts)

    def _run_periodic(self, now: Moment) -> None:
        if now.mono >= min(self._next_round, self._intake.next_step(self._next_round)):
            self._next_round = now.mono + ROUND_SECONDS
            self._intake.step(now)
            self._registry.forget_old(now)
            self._book.groups.step(now)
            self._changed.view |= self._statuses != self._all_statuses(now)

    def _start_due(self, upstream: Upstream, now: Moment) -> float:
        while (at := upstream.next_start()) <= now.mono:
            choice = upstream.choose(now.mono)
            if choice is None:
                return math.inf
            self._start(upstream, choice, now)
        return at

    def _start(self, upstream: Upstream, choice: NextPoll, now: Moment) -> None:
        environment, entry = choice
        probe = not upstream.circuit_breaker.is_closed
        operation_id = entry.id if entry is not None else NIL_ID
        request = PollRequest(
            environment.name, operation_id, environment.key_epoch, now.mono, probe, upstream.send_window
        )
        wait = self._outside.fetch(request)
        if entry is not None and wait:
            environment.plan(environment.operations[entry.id], now.mono + wait)
            return
        if entry is not None:
            environment.counters.delay[entry.poll_class].observe(now.mono - entry.due)
        if probe:
            upstream.circuit_breaker.probe_started()
        upstream.rate_limiter.start(now.mono)
        environment.begin(operation_id, now.mono)
        self._changed.view = True

    def _render(self, now: Moment) -> View:
        self._statuses = self._all_statuses(now)
        return self._book.publish(self._statuses, now)

    def _all_statuses(self, now: Moment) -> tuple[EnvironmentStatus, ...]:
        return tuple(self._status(self._environments[name], now) for name in sorted(self._environments))

    def _status(self, environment: WatchedEnvironment, now: Moment) -> EnvironmentStatus:
        upstream = environment.upstream
        return EnvironmentStatus(
            environment.name,
            environment.settings.base_url,
            environment.settings.branch,
            environment.health.up,
            upstream.circuit_breaker.suspended,
            upstream.rate_limiter.limit,
            upstream.rate_limiter.rate,
            environment.activity.used(now.mono),
            environment.in_flight,
            environment.activity.last_response,
            environment.activity.last_error,
            self._intake.sources(environment),
            environment.due.frozen(),
        )


def run(tracker: Tracker, inbox: SimpleQueue[Message], clock: Callable[[], Moment]) -> None:
    """Be the tracker's thread until it is closed, or stopped and out of answers to wait for."""
    settled = 0
    while True:
        wake = tracker.advance(clock())
        if tracker.ended:
            return
        if tracker.operations >= settled + SETTLED_TOGETHER:
            settled = tracker.operations
            gc.freeze()  # else each of some full collections while they grow to 50,000 holds all threads for 0.2 s
        try:
            message = inbox.get(timeout=min(STEP_SECONDS, max(0.0, wake - clock().mono)))
            for _ in range(MESSAGES_A_STEP):
                tracker.handle(message, clock())
                message = inbox.get_nowait()
            tracker.handle(message, clock())
        except Empty:
            continue
