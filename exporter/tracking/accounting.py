"""What an answer tells besides the operation: about the upstream's pace and key, and whether Knock answers at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from exporter.errors import REFUSED_HINT, BadResponse, KeyRefused, KnockError, Postponed, RateLimited
from exporter.metrics.own import code_label
from exporter.operation import Operation

if TYPE_CHECKING:
    from exporter.metrics.own import Activity
    from exporter.tracking.environment import Upstream, WatchedEnvironment
    from exporter.tracking.messages import Outside, PollResponse
    from exporter.tracking.transitions import Moment

LOGGED_WORDS_MOST = 100  # undocumented statuses, each told once

log = structlog.get_logger()


def _code(outcome: Operation | KnockError) -> int | None:
    return outcome.code if isinstance(outcome, KnockError) else 200


class ResponseAccounting:
    """Counts requests and draws the conclusions for their upstream. Owned by the tracker's thread."""

    def __init__(self, activity: Activity, outside: Outside) -> None:
        self._activity = activity
        self._outside = outside
        self._logged_words: set[str] = set()

    def account(self, environment: WatchedEnvironment, answer: PollResponse, now: Moment) -> None:
        """Take in what an answer tells."""
        self._count_request(environment, answer)
        if isinstance(answer.outcome, Postponed):
            self._pass_over(environment, answer, now)
            if not environment.logged_postponed:
                environment.logged_postponed = True
                error = str(answer.outcome)
                log.warning(
                    "not enough memory for an answer, polling again later", environment=environment.name, error=error
                )
            return
        self._count_poll(environment, answer, now)
        self._account_upstream(environment, answer, now)

    def account_lost(self, environment: WatchedEnvironment, answer: PollResponse, now: Moment) -> None:
        """Take in that a request was lost with its connection: it was sent, and tells nothing."""
        self._count_request(environment, answer)
        self._pass_over(environment, answer, now)

    def _pass_over(self, environment: WatchedEnvironment, answer: PollResponse, now: Moment) -> None:
        if answer.request.probe and answer.request.key_epoch == environment.key_epoch:
            environment.upstream.circuit_breaker.probe_lost(now.mono)

    def _count_request(self, environment: WatchedEnvironment, answer: PollResponse) -> None:
        self._activity.requests.labels(environment.name, code_label(_code(answer.outcome))).inc()
        environment.counters.seconds.observe(answer.seconds)

    def _count_poll(self, environment: WatchedEnvironment, answer: PollResponse, now: Moment) -> None:
        outcome = answer.outcome
        if _code(outcome) is not None:
            environment.activity.last_response = now.wall
            self._activity.last_response.labels(environment.name).set(now.wall)
        # A check of the key asks for what nobody has: "not found" is its good answer.
        if isinstance(outcome, KnockError) and not (answer.request.checks_key and outcome.accepted_key):
            environment.activity.failed(outcome, now.wall)
        if not answer.request.checks_key:
            environment.counters.polls.inc()
            if isinstance(outcome, KnockError):
                self._activity.poll_failures.labels(environment.name, outcome.reason).inc()

    def _account_upstream(self, environment: WatchedEnvironment, answer: PollResponse, now: Moment) -> None:
        upstream, outcome, request = environment.upstream, answer.outcome, answer.request
        if isinstance(outcome, RateLimited):
            if upstream.rate_limiter.limited(now.mono, request.sent_at, outcome.retry_after, self._outside.chance()):
                log.warning(
                    "rate limited by Knock, slowing down",
                    environment=environment.name,
                    limit=round(upstream.rate_limiter.rate, 2),
                )
        elif isinstance(outcome, Operation):
            upstream.rate_limiter.accepted(request.sent_at)
        self._account_bad_responses(upstream, environment, outcome)
        if request.key_epoch != environment.key_epoch:
            return  # it says nothing about the key of now
        self._account_key(upstream, environment, answer, now)
        environment.trusted |= isinstance(outcome, Operation)

    def _account_bad_responses(
        self, upstream: Upstream, environment: WatchedEnvironment, outcome: Operation | KnockError
    ) -> None:
        if isinstance(outcome, BadResponse):
            if upstream.bad_response(outcome.field):
                log.warning(
                    "Knock keeps sending answers that cannot be read", environment=environment.name, error=str(outcome)
                )
        elif isinstance(outcome, Operation):
            upstream.good_response()
            self._log_word(environment, outcome.status_word)

    def _log_word(self, environment: WatchedEnvironment, word: str | None) -> None:
        if word is not None and word not in self._logged_words and len(self._logged_words) < LOGGED_WORDS_MOST:
            self._logged_words.add(word)
            log.warning("Knock reported a status that it does not document", environment=environment.name, status=word)

    def _account_key(
        self, upstream: Upstream, environment: WatchedEnvironment, answer: PollResponse, now: Moment
    ) -> None:
        outcome, request, was_up = answer.outcome, answer.request, environment.health.up
        good = isinstance(outcome, Operation) or outcome.accepted_key
        tells = good or isinstance(outcome, KeyRefused)
        if tells and not request.probe and upstream.circuit_breaker.is_late(request.sent_at, good=good):
            return
        if isinstance(outcome, KeyRefused):
            environment.health.refused()
            if upstream.circuit_breaker.refused(now.mono, probe=request.probe):
                self._outside.read_key(environment.name)
        elif good:
            environment.health.accepted()
            if request.probe:
                upstream.circuit_breaker.accepted(now.mono)
        else:
            if environment.health.missed(request.sent_at, now.mono):
                log.warning("no good response from Knock, retrying", environment=environment.name, error=str(outcome))
            if request.probe:
                upstream.circuit_breaker.probe_failed(now.mono)
        if environment.health.up != was_up:
            self._log_health(environment, outcome)

    def _log_health(self, environment: WatchedEnvironment, outcome: Operation | KnockError) -> None:
        if environment.health.up:
            log.info("Knock answers and accepts the key", environment=environment.name)
        elif isinstance(outcome, KeyRefused):
            log.error(
                "Knock refuses the key",
                environment=environment.name,
                error=str(outcome),
                key=str(environment.settings.key),
                hint=REFUSED_HINT,
            )
        else:
            log.error("Knock gives no usable answers", environment=environment.name, error=str(outcome))
        self._activity.up.labels(environment.name).set(environment.health.up or 0)
