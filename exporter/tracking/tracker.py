"""The one thread that owns what changes.

Others put a message into the inbox. `handle` takes a message in, `advance` starts what is due and publishes: both get
the time as an argument and do no I/O, so a test drives them through hours in milliseconds. `run` is the thread.
"""

from __future__ import annotations

import gc
import math
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import structlog

from exporter.errors import ConnectionLost, KeyRefused, KnockError, NotFound, Postponed, RateLimited
from exporter.operation import NIL_ID, Operation, OperationKey
from exporter.tracking import record
from exporter.tracking.book import Book
from exporter.tracking.environments import Environments
from exporter.tracking.intake import Intake
from exporter.tracking.journal import Journal, Recall
from exporter.tracking.judge import Judge
from exporter.tracking.memory import Memory
from exporter.tracking.messages import (
    Answered,
    Close,
    Exchange,
    KeyRead,
    Listed,
    Reconfigure,
    Register,
    Release,
    Request,
    Reread,
    Saved,
    Stop,
    Unread,
)
from exporter.tracking.picture import Gallery, Situation
from exporter.tracking.reception import Reception
from exporter.tracking.record import Circumstances, Moment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from exporter.config import Config
    from exporter.keys import Secret
    from exporter.metrics.exposition import View
    from exporter.metrics.own import Activity
    from exporter.tracking.lane import Asker, Choice, Lane
    from exporter.tracking.messages import Message, Outside
    from exporter.tracking.slices import Job

PUBLISH_SECONDS = 0.1
RELOAD_SECONDS = 1.0  # in which a reload is taken in before a view may show a part of it
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
        self._journal = Journal(outside.save, self._show)
        self._book = Book(config.labels, activity, self._journal)
        self._intake = Intake(self._book, self._journal, activity, memory.tombstones)
        self._environments = Environments(memory, self._book, self._intake, self._journal, activity)
        self._reception = Reception(self._intake, self._environments, self._journal, activity, outside.chance)
        self._judge = Judge(self._environments, activity, outside)
        self._recall = Recall(
            self._environments.everything,
            self._environments.recall_operation,
            self._intake.tombstones.get,
            self._environments.recall_cell,
            self._environments.recall,
        )
        self._environments.configure(config, keys, now)
        self._stopping = False
        self._reloads: list[Callable[[], None]] = []  # the replies to those whose lists are not taken in yet
        self._replies: list[Callable[[], None]] = []  # those that wait for the next view
        self._gallery = Gallery()
        self._situations: tuple[Situation, ...] = ()
        self._next_publish = -math.inf
        self._view_waits_until = -math.inf
        self._next_round = now.mono + ROUND_SECONDS

    @property
    def operations(self) -> int:
        """How many operations are tracked."""
        return len(self._book)

    # What comes in.

    def handle(self, message: Message, now: Moment) -> None:
        """Take one message in."""
        match message:
            case Answered():
                self._take_answer(message, now)
            case KeyRead():
                self._take_key(message, now)
            case Listed() | Reread() | Unread() | Register() | Release():
                self._reception.take(message, now)
            case Reconfigure():
                self._reconfigure(message, now)
            case Exchange():
                message.switch()
            case Saved():
                self._take_saved(message, now)
            case Stop():
                self._stopping = True
                self._journal.when_saved(lambda _ok: None)  # tells whether the last commit must be a whole one
            case Close():
                self._stopping = self.ended = True

    def _reconfigure(self, message: Reconfigure, now: Moment) -> None:
        """Apply a configuration; scrapes see nothing of it until they see all of it."""
        self._activity.fresh.freeze()
        message.switch()
        self._environments.configure(message.config, message.keys, now)
        self._show_next(now)
        self._view_waits_until = now.mono + RELOAD_SECONDS
        self._reloads.append(message.reply)
        self._intake.slices.put("reload", self._reply_when_shown(), now)

    def _show_next(self, now: Moment) -> None:
        self._book.generation += 1
        self._book.changed = True
        self._next_publish = now.mono
        self._journal.hurry()

    def _reply_when_shown(self) -> Job:
        """Answer when all that the configuration lists is shown: this comes after its lists."""
        now = yield
        self._show_next(now)
        self._view_waits_until = -math.inf
        self._replies += self._reloads
        self._reloads = []

    def _show(self, view: View) -> None:
        self._outside.publish(view)
        self._activity.fresh.thaw(view.generation)
        if view.generation == self._book.generation:
            replies, self._replies = self._replies, []
            for reply in replies:
                reply()

    def _take_saved(self, message: Saved, now: Moment) -> None:
        if message.ok:
            self._activity.state_written.set(now.wall)
        else:
            self._activity.state_failures.inc()
        self._journal.saved(message, now)

    def _take_answer(self, answer: Answered, now: Moment) -> None:
        asker = self._environments.askers.get(answer.request.environment)
        if asker is None or not asker.sent(answer.request):
            return  # the environment was taken out of the configuration meanwhile
        if asker.end(answer.request.id, lost=isinstance(answer.outcome, ConnectionLost)):
            self._repeat(asker, answer, now)
            return
        self._judge.judge(asker, answer, now)
        if not answer.request.checks_key:
            self._take_outcome(asker, answer, now)

    def _repeat(self, asker: Asker, answer: Answered, now: Moment) -> None:
        """Ask again at once, in a slot of its own: that a kept connection had ended says nothing of Knock."""
        self._judge.judge_lost(asker, answer, now)
        if answer.request.checks_key:
            asker.check_key_again()
        elif (before := self._book.get(OperationKey(asker.name, answer.request.id))) is not None:
            asker.plan(before)
        else:
            asker.drop(answer.request.id)

    def _take_outcome(self, asker: Asker, answer: Answered, now: Moment) -> None:
        before = self._book.get(OperationKey(asker.name, answer.request.id))
        outcome = answer.outcome
        if before is None or before.final:
            return
        if isinstance(outcome, Postponed):
            if before.due is not None:
                asker.plan(replace(before, due=now.mono + POSTPONED_SECONDS))
            return
        self._gallery.polled(before.key, answer.seconds, outcome, now.wall)
        if not asker.asked_here(answer.request):
            asker.plan(before)  # another Knock said that
            return
        if isinstance(outcome, NotFound) and answer.request.key_epoch != asker.key_epoch:
            asker.plan(before)  # under another key, which proves nothing
            return
        if isinstance(outcome, (RateLimited, KeyRefused)):
            self._book.touch(before.key)
            asker.plan(before)  # the upstream's trouble, not the operation's: it stays due
            return
        at = Circumstances(
            now, self._outside.chance(), asker.settings.polling, self._environments.epoch(asker), asker.trusted
        )
        if isinstance(outcome, Operation):
            after = self._intake.record(record.answered(before, outcome, at), now)
        else:
            after = self._intake.record(record.failed(before, outcome, at), now)
            self._tell_missing(asker, after, outcome)
        asker.plan(after)

    def _tell_missing(self, asker: Asker, after: record.Tracked, outcome: KnockError) -> None:
        if after.lost:
            log.warning("operation is lost: Knock knows it no more", environment=asker.name, operation_id=after.key.id)
        hint = isinstance(outcome, NotFound) and not asker.trusted and not asker.hinted
        if hint and self._book.only_missing(asker.name):
            asker.hinted = True
            log.warning(
                "Knock knows none of these operations: key of another environment, or wrong branch?",
                environment=asker.name,
            )

    def _take_key(self, message: KeyRead, now: Moment) -> None:
        asker = self._environments.askers.get(message.environment)
        if asker is None:
            return
        self._environments.lane(asker).gate.key_was_read(now.mono)
        if message.key is not None and message.key != asker.key:
            log.info("using the changed API key", environment=asker.name)
            self._outside.use_key(asker.name, message.key)
            self._environments.use_key(asker, message.key, now)

    # What goes out.

    def advance(self, now: Moment) -> float:
        """Start what is due and publish; return when there is more to do (monotonic; inf: when a message comes)."""
        self.stepped_at = now.mono
        self._activity.tracker_stepped.set(now.wall)
        # Lists wait for the next step: with a view in the same one, messages would be held up for too long.
        self._intake.slices.step(now, urgent_only=now.mono >= self._next_publish)
        self._keep_house(now)
        lanes = self._environments.lanes
        starts = [math.inf if self._stopping else self._start_due(lane, now) for lane in lanes]
        idle = not any(asker.in_flight for asker in self._environments.askers.values())
        if self._stopping and idle and not self._journal.holds:
            self.ended = True
        if self.ended:
            self._intake.slices.finish_urgent(now)
            self._set_gauges()
            self._journal.close(now, self._recall, self._render(now))
            return now.mono
        if self._intake.slices.waiting:
            starts.append(now.mono)
        return min(self._publish(now), self._intake.next_step(self._next_round), self._book.next_hiding(), *starts)

    def _keep_house(self, now: Moment) -> None:
        self._book.hide_due(now)
        if now.mono >= min(self._next_round, self._intake.next_step(self._next_round)):
            self._next_round = now.mono + ROUND_SECONDS
            self._intake.step(now)
            self._environments.forget_old(now)
            self._book.changed |= self._situations != self._look_around(now)

    def _start_due(self, lane: Lane, now: Moment) -> float:
        while (at := lane.next_start()) <= now.mono:
            choice = lane.choose(now.mono)
            if choice is None:
                return math.inf
            self._start(lane, choice, now)
        return at

    def _start(self, lane: Lane, choice: Choice, now: Moment) -> None:
        asker, entry = choice
        probe = not lane.gate.is_open
        operation_id = entry.id if entry is not None else NIL_ID
        wait = self._outside.fetch(Request(asker.name, operation_id, asker.key_epoch, now.mono, probe))
        if entry is not None and wait:
            asker.put_off(entry, now.mono + wait)
            return
        if entry is not None:
            self._environments.counters[asker.name].delay[entry.poll_class].observe(now.mono - entry.due)
        if probe:
            lane.gate.probe_started()
        lane.pacer.start(now.mono)
        asker.begin(operation_id, now.mono)

    def _publish(self, now: Moment) -> float:
        """Show what changed, at once or when it is committed; return when there is more to do."""
        if now.mono >= self._next_publish:
            self._next_publish = now.mono + PUBLISH_SECONDS
            self._set_gauges()
            if self._has_news(now) and self._journal.shows_at_once(now.mono):
                self._journal.show(self._render(now))
        self._journal.step(now, self._recall, lambda: self._render(now) if self._has_news(now) else None)
        changed = self._has_news(now)
        waits = self._next_publish if changed and self._journal.shows_at_once(now.mono) else math.inf
        return min(waits, self._journal.next_step(now.mono, changed=changed))

    def _has_news(self, now: Moment) -> bool:
        """Whether there is something to show that may be shown."""
        return self._book.changed and now.mono >= self._view_waits_until

    def _render(self, now: Moment) -> View:
        self._situations = self._look_around(now)
        picture = self._gallery.publish(self._book.touched, self._intake.kept, self._book.exposes, self._situations)
        return replace(self._book.publish(), picture=picture)

    def _look_around(self, now: Moment) -> tuple[Situation, ...]:
        askers = self._environments.askers
        return tuple(self._situation(askers[name], now) for name in sorted(askers))

    def _situation(self, asker: Asker, now: Moment) -> Situation:
        lane = self._environments.lane(asker)
        return Situation(
            asker.name,
            asker.settings.base_url,
            asker.settings.branch,
            asker.health.up,
            lane.gate.suspended,
            lane.pacer.limit,
            lane.pacer.rate,
            asker.standing.used(now.mono),
            asker.in_flight,
            asker.standing.last_answer,
            asker.standing.last_error,
            self._intake.sources(asker),
        )

    def _set_gauges(self) -> None:
        for name, asker in self._environments.askers.items():
            lane = self._environments.lane(asker)
            self._activity.in_flight.labels(name).set(asker.in_flight)
            self._activity.rate_limit.labels(name).set(lane.pacer.rate)
            self._activity.suspended.labels(name).set(lane.gate.suspended)


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
