"""What an answer tells besides the operation: about the upstream's pace and key, and whether Knock answers at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from exporter.errors import REFUSED_HINT, BadAnswer, KeyRefused, KnockError, Postponed, RateLimited
from exporter.metrics.own import code_label
from exporter.operation import Operation

if TYPE_CHECKING:
    from exporter.metrics.own import Activity
    from exporter.tracking.environments import Environments
    from exporter.tracking.lane import Asker, Lane
    from exporter.tracking.messages import Answered, Outside
    from exporter.tracking.record import Moment

TOLD_WORDS_MOST = 100  # undocumented statuses, each told once

log = structlog.get_logger()


def _code(outcome: Operation | KnockError) -> int | None:
    return outcome.code if isinstance(outcome, KnockError) else 200


class Judge:
    """Counts requests and draws the conclusions for their upstream. Owned by the tracker's thread."""

    def __init__(self, environments: Environments, activity: Activity, outside: Outside) -> None:
        self._environments = environments
        self._activity = activity
        self._outside = outside
        self._told_words: set[str] = set()

    def judge(self, asker: Asker, answer: Answered, now: Moment) -> None:
        """Take in what an answer tells."""
        self._count_request(answer)
        if isinstance(answer.outcome, Postponed):
            self._pass_over(asker, answer, now)
            if not asker.told_postponed:
                asker.told_postponed = True
                error = str(answer.outcome)
                log.warning("an answer is put off: its operation stays due", environment=asker.name, error=error)
            return
        self._count_poll(asker, answer, now)
        self._judge_lane(asker, answer, now)

    def judge_lost(self, asker: Asker, answer: Answered, now: Moment) -> None:
        """Take in that a request was lost with its connection: it was sent, and tells nothing."""
        self._count_request(answer)
        self._pass_over(asker, answer, now)

    def _pass_over(self, asker: Asker, answer: Answered, now: Moment) -> None:
        if answer.request.probe and answer.request.key_epoch == asker.key_epoch:
            self._environments.lane(asker).gate.probe_lost(now.mono)

    def _count_request(self, answer: Answered) -> None:
        environment = answer.request.environment
        self._activity.requests.labels(environment, code_label(_code(answer.outcome))).inc()
        self._environments.counters[environment].seconds.observe(answer.seconds)

    def _count_poll(self, asker: Asker, answer: Answered, now: Moment) -> None:
        environment, outcome = answer.request.environment, answer.outcome
        if _code(outcome) is not None:
            asker.standing.last_answer = now.wall
            self._activity.last_answer.labels(environment).set(now.wall)
        # A check of the key asks for what nobody has: "not found" is its good answer.
        if isinstance(outcome, KnockError) and not (answer.request.checks_key and outcome.accepted_key):
            asker.standing.failed(outcome, now.wall)
        if not answer.request.checks_key:
            self._environments.counters[environment].polls.inc()
            if isinstance(outcome, KnockError):
                self._activity.poll_failures.labels(environment, outcome.reason).inc()

    def _judge_lane(self, asker: Asker, answer: Answered, now: Moment) -> None:
        lane, outcome, request = self._environments.lane(asker), answer.outcome, answer.request
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
            self._tell_word(asker, outcome.status_word)

    def _tell_word(self, asker: Asker, word: str | None) -> None:
        if word is not None and word not in self._told_words and len(self._told_words) < TOLD_WORDS_MOST:
            self._told_words.add(word)
            log.warning("Knock told a status that it does not document", environment=asker.name, status=word)

    def _judge_key(self, lane: Lane, asker: Asker, answer: Answered, now: Moment) -> None:
        outcome, request, was_up = answer.outcome, answer.request, asker.health.up
        good = isinstance(outcome, Operation) or outcome.accepted_key
        tells = good or isinstance(outcome, KeyRefused)
        if tells and not request.probe and lane.gate.is_late(request.sent_at, good=good):
            return
        if isinstance(outcome, KeyRefused):
            asker.health.refused()
            if lane.gate.refused(now.mono, probe=request.probe):
                self._outside.read_key(asker.name)
        elif good:
            asker.health.accepted()
            if request.probe:
                lane.gate.accepted(now.mono)
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
            key = {"key": str(asker.settings.key), "hint": REFUSED_HINT} if isinstance(outcome, KeyRefused) else {}
            log.error(trouble, environment=asker.name, error=str(outcome), **key)
        self._activity.up.labels(asker.name).set(asker.health.up or 0)
