"""The one thread that owns what changes.

Others put a message into the inbox. `handle` takes a message in, `advance` starts what is due and publishes: both get
the time as an argument and do no I/O, so a test drives them through hours in milliseconds. `run` is the thread.
"""

from __future__ import annotations

import math
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import structlog

from exporter.errors import BadAnswer, KeyRefused, KnockError, NotFound, RateLimited
from exporter.metrics.activity import code_label
from exporter.operation import NIL_ID, Operation, OperationKey
from exporter.tracking import record
from exporter.tracking.book import Book
from exporter.tracking.lane import Asker, Lane
from exporter.tracking.messages import Answered, Close, HandOver, KeyRead, Request, Stop
from exporter.tracking.record import Circumstances, Moment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from exporter.config import Config
    from exporter.keys import Secret
    from exporter.metrics.activity import Activity, PollCounters
    from exporter.tracking.lane import Choice
    from exporter.tracking.messages import Message, Outside

PUBLISH_SECONDS = 0.1
STEP_SECONDS = 1.0  # the heart beats at least this often

log = structlog.get_logger()


class Tracker:
    """All state about operations and how they are asked for; `stepped_at` (monotonic) is its heartbeat."""

    def __init__(
        self, config: Config, keys: Mapping[str, Secret], outside: Outside, activity: Activity, now: Moment
    ) -> None:
        self.ended = False
        self.stepped_at = now.mono
        self._outside = outside
        self._activity = activity
        self._epoch = now.wall
        self._book = Book(config.environments, config.labels, activity)
        self._askers = {each.name: Asker(each, keys[each.name]) for each in config.environments}
        self._counters: dict[str, PollCounters] = {}
        self._lanes: dict[tuple[str, Secret], Lane] = {}
        self._lane_of: dict[str, Lane] = {}
        self._stopping = False
        self._next_publish = -math.inf
        for asker in self._askers.values():
            self._counters[asker.name] = activity.add_environment(asker.name)
            self._enter_lane(asker, now)
            self._take_operations(HandOver(asker.name, asker.settings.operations), now)
            activity.source_success.labels(asker.name, "config").set(now.wall)

    # What comes in.

    def handle(self, message: Message, now: Moment) -> None:
        """Take one message in."""
        match message:
            case Answered():
                self._take_answer(message, now)
            case KeyRead():
                self._take_key(message, now)
            case HandOver():
                self._take_operations(message, now)
            case Stop():
                self._stopping = True
            case Close():
                self._stopping = self.ended = True

    def _take_operations(self, message: HandOver, now: Moment) -> None:
        asker = self._askers[message.environment]
        for each in message.operations:
            key = OperationKey(asker.name, each.id)
            if self._book.get(key) is None:
                group = self._book.admit_group(asker.name, each.group)
                new = record.handed_over(key, group, each.labels, now, asker.settings.polling)
                self._plan(asker, self._book.record(new, now))

    def _take_answer(self, answer: Answered, now: Moment) -> None:
        asker = self._askers[answer.request.environment]
        asker.in_flight -= 1
        self._count_request(answer, now)
        self._judge_lane(asker, answer, now)
        if not answer.request.checks_key:
            self._take_outcome(asker, answer, now)

    def _count_request(self, answer: Answered, now: Moment) -> None:
        environment, outcome = answer.request.environment, answer.outcome
        code = outcome.code if isinstance(outcome, KnockError) else 200
        self._activity.requests.labels(environment, code_label(code)).inc()
        self._counters[environment].seconds.observe(answer.seconds)
        if code is not None:
            self._activity.last_answer.labels(environment).set(now.wall)
        if not answer.request.checks_key:
            self._counters[environment].polls.inc()
            if isinstance(outcome, KnockError):
                self._activity.poll_failures.labels(environment, outcome.reason).inc()

    def _judge_lane(self, asker: Asker, answer: Answered, now: Moment) -> None:
        lane, outcome, request = self._lane_of[asker.name], answer.outcome, answer.request
        if isinstance(outcome, RateLimited):
            if lane.pacer.limited(now.mono, request.sent_at, outcome.retry_after, self._outside.chance()):
                log.warning("rate limited by Knock, slowing down", environment=asker.name, limit=lane.pacer.rate)
        elif isinstance(outcome, Operation):
            lane.pacer.accepted(request.sent_at)
        self._judge_bad_answers(lane, asker, outcome)
        if request.key_epoch != asker.key_epoch:
            return  # it says nothing about the key of now
        self._judge_key(lane, asker, answer, now)
        asker.trusted |= isinstance(outcome, Operation)

    def _judge_bad_answers(self, lane: Lane, asker: Asker, outcome: Operation | KnockError) -> None:
        if isinstance(outcome, BadAnswer):
            if lane.bad_answer(outcome.field):
                log.warning(
                    "Knock keeps answering what it does not document", environment=asker.name, error=str(outcome)
                )
        elif isinstance(outcome, Operation):
            lane.good_answer()

    def _judge_key(self, lane: Lane, asker: Asker, answer: Answered, now: Moment) -> None:
        outcome, request, was_up = answer.outcome, answer.request, asker.health.up
        if isinstance(outcome, KeyRefused):
            asker.health.refused()
            if lane.gate.refused(now.mono, probe=request.probe):
                self._outside.read_key(asker.name)
        elif isinstance(outcome, Operation) or outcome.accepted_key:
            asker.health.accepted()
            if request.probe:
                lane.gate.accepted()
        else:
            if asker.health.missed(request.sent_at, now.mono):
                log.warning("no good answer from Knock, trying on", environment=asker.name, error=str(outcome))
            if request.probe:
                lane.gate.probe_failed(now.mono)
        if asker.health.up != was_up:
            self._tell_health(asker, outcome)

    def _tell_health(self, asker: Asker, outcome: Operation | KnockError) -> None:
        if asker.health.up:
            log.info("Knock answers and takes the key", environment=asker.name)
        else:
            trouble = "Knock refuses the key" if isinstance(outcome, KeyRefused) else "Knock cannot be read"
            log.error(trouble, environment=asker.name, error=str(outcome))
        self._activity.up.labels(asker.name).set(asker.health.up or 0)

    def _take_outcome(self, asker: Asker, answer: Answered, now: Moment) -> None:
        before = self._book.get(OperationKey(asker.name, answer.request.id))
        outcome = answer.outcome
        if before is None or before.final:
            return
        if isinstance(outcome, (RateLimited, KeyRefused)):
            self._plan(asker, before)  # the lane's trouble, not the operation's: it stays due
            return
        at = Circumstances(now, self._outside.chance(), asker.settings.polling, self._epoch, asker.trusted)
        if isinstance(outcome, Operation):
            after = self._book.record(record.answered(before, outcome, at), now)
        else:
            after = self._book.record(record.failed(before, outcome, at), now)
            self._tell_missing(asker, after, outcome)
        self._plan(asker, after)

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
        asker = self._askers[message.environment]
        self._lane_of[asker.name].gate.key_was_read(now.mono)
        if message.key is None or message.key == asker.key:
            return
        log.info("using the changed API key", environment=asker.name)
        asker.use_key(message.key)
        self._outside.use_key(asker.name, message.key)
        self._enter_lane(asker, now)
        for lost in [each for each in self._book.of(asker.name) if each.lost]:
            self._plan(asker, self._book.record(record.asked_again(lost, now, asker.settings.polling), now))

    def _enter_lane(self, asker: Asker, now: Moment) -> None:
        old = self._lane_of.get(asker.name)
        place = (asker.settings.base_url, asker.key)
        lane = self._lanes.setdefault(place, Lane())
        is_new = not lane.askers
        lane.join(asker)
        self._lane_of[asker.name] = lane
        if old is not None:
            old.leave(asker, now.mono)
            if is_new:
                lane.pacer.inherit(old.pacer)
            self._lanes = {where: each for where, each in self._lanes.items() if each.askers}

    # What goes out.

    def _plan(self, asker: Asker, tracked: record.Tracked) -> None:
        if tracked.due is not None:
            asker.plan(tracked.key.id, tracked.due, tracked.poll_class, tracked.interval)

    def advance(self, now: Moment) -> float:
        """Start what is due and publish; return when to come back (monotonic)."""
        self.stepped_at, self._activity.heartbeat = now
        starts = [math.inf if self._stopping else self._start_due(lane, now) for lane in self._lanes.values()]
        self._book.hide_due(now)
        if self._stopping and not any(asker.in_flight for asker in self._askers.values()):
            self.ended = True
        if self.ended or now.mono >= self._next_publish:
            self._publish(now)
        waits = [self._next_publish] if self._book.changed else []
        return min(*starts, *waits, self._book.next_hiding(), now.mono + STEP_SECONDS)

    def _start_due(self, lane: Lane, now: Moment) -> float:
        while (at := lane.next_start()) <= now.mono:
            choice = lane.choose(now.mono)
            if choice is None:
                return math.inf
            self._start(lane, choice, now)
        return at

    def _start(self, lane: Lane, choice: Choice, now: Moment) -> None:
        asker, entry = choice
        if entry is not None:
            tracked = self._book.get(OperationKey(asker.name, entry.id))
            if tracked is None or tracked.due != entry.due:
                return  # planned anew since
            self._counters[asker.name].delay[entry.poll_class].observe(now.mono - entry.due)
        probe = not lane.gate.is_open
        if probe:
            lane.gate.probe_started()
        lane.pacer.start(now.mono)
        asker.in_flight += 1
        asker.last_sent = now.mono
        operation_id = entry.id if entry is not None else NIL_ID
        self._outside.fetch(Request(asker.name, operation_id, asker.key_epoch, now.mono, probe))

    def _publish(self, now: Moment) -> None:
        self._next_publish = now.mono + PUBLISH_SECONDS
        for name, asker in self._askers.items():
            lane = self._lane_of[name]
            self._activity.in_flight.labels(name).set(asker.in_flight)
            self._activity.rate_limit.labels(name).set(lane.pacer.rate)
            self._activity.suspended.labels(name).set(lane.gate.suspended)
        if self._book.changed:
            self._outside.publish(self._book.publish())


def run(tracker: Tracker, inbox: SimpleQueue[Message], clock: Callable[[], Moment]) -> None:
    """Be the tracker's thread until it is closed, or stopped and out of answers to wait for."""
    while True:
        wake = tracker.advance(clock())
        if tracker.ended:
            return
        try:
            message = inbox.get(timeout=max(0.0, wake - clock().mono))
            now = clock()
            while True:
                tracker.handle(message, now)
                message = inbox.get_nowait()
        except Empty:
            continue
