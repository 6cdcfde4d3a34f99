"""Environments and their upstreams: what shares a base URL and a key shares one pace, one suspension and one wait.

Knock counts requests per environment and cannot be asked which environment a key belongs to; what shares a key surely
shares a limit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from exporter.config.settings import GROUPS_MOST
from exporter.operation import NIL_ID
from exporter.send_window import SendWindow
from exporter.tracking import exposure
from exporter.tracking.exposure import CardinalityLimit, TopN
from exporter.tracking.history import NO_HISTORY, History
from exporter.tracking.ledger import Ordered
from exporter.tracking.memberships import MembershipIndex
from exporter.tracking.memory import StoredOperation
from exporter.tracking.pacing import CircuitBreaker, DuePoll, DueQueue, PollClass, RateLimiter, WeightedRoundRobin
from exporter.tracking.status import EnvironmentActivity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.config import EnvironmentSettings
    from exporter.keys import Secret
    from exporter.metrics.own import PollCounters
    from exporter.operation import OperationKey
    from exporter.tracking.exposure import Rank
    from exporter.tracking.memberships import Memberships
    from exporter.tracking.memory import EnvironmentMemory
    from exporter.tracking.messages import PollRequest
    from exporter.tracking.transitions import Tracked

NEVER = math.inf
MISSES_BEFORE_DOWN, DOWN_SECONDS = 3, 30.0
BAD_RESPONSES_BEFORE_LOG = 5


class Health:
    """Whether Knock answers and takes the key, as `knock_up` tells it; `up` is None before anything is known."""

    def __init__(self) -> None:
        self.up: bool | None = None
        self._misses = 0
        self._first_miss = math.inf

    def accepted(self) -> None:
        """Note an answer that shows that Knock took the key."""
        self.up, self._misses = True, 0

    def refused(self) -> None:
        """Note that Knock refused the key."""
        self.up = False

    def missed(self, sent_at: float, now: float) -> bool:
        """Note an attempt that showed neither, and return whether it is the first; three over 30 s count as down."""
        self._first_miss = sent_at if self._misses == 0 else min(self._first_miss, sent_at)
        self._misses += 1
        if self._misses >= MISSES_BEFORE_DOWN and now - self._first_miss >= DOWN_SECONDS:
            self.up = False
        return self._misses == 1


@dataclass(slots=True, eq=False)
class FollowedOperation:
    """All that the tracker keeps of one operation. It never leaves its thread: others get the frozen values in it."""

    environment: WatchedEnvironment
    tracked: Tracked
    memberships: Memberships = ()
    history: History = NO_HISTORY
    rank: Rank | None = None  # None: hidden
    plan: DuePoll | None = None  # its next request
    repeated: bool = False  # whether its last request was lost with its connection
    sweep_at: float = NEVER  # when (monotonic) it is hidden or retires, or earlier

    @property
    def key(self) -> OperationKey:
        """What names it."""
        return self.tracked.key

    @property
    def dropped(self) -> bool:
        """Whether it is followed no more, itself: one of the same id may be."""
        return self.environment.operations.get(self.key.id) is not self

    @property
    def stored(self) -> StoredOperation:
        """What is to be remembered of it."""
        return StoredOperation(self.tracked, self.memberships)


class WatchedEnvironment:
    """All that the tracker keeps of one environment: its operations, who names them, what is shown, and its requests.

    `trusted`: a record came since key, branch or URL changed, so a 404 means that the operation is gone, not that the
    key belongs elsewhere. `key_epoch` counts the keys, so that an answer to an old one is not held against a new one;
    `epochs` counts those of all environments, so that an answer to a former one of this name is known for what it is.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what it is made of
        self,
        settings: EnvironmentSettings,
        key: Secret,
        upstream: Upstream,
        memory: EnvironmentMemory,
        counters: PollCounters,
        epochs: Iterator[int],
    ) -> None:
        self.settings = settings
        self.memory = memory
        self.counters = counters
        self.activity = EnvironmentActivity()
        self.operations: dict[str, FollowedOperation] = {}
        self.index = MembershipIndex(self.operations)
        # What is shown.
        self.top_n = TopN(settings.per_operation_limit)
        self.groups = CardinalityLimit(GROUPS_MOST, memory.groups)
        self.names = CardinalityLimit(exposure.NAMES_MOST, memory.names)
        self.lost = 0
        self.missing = 0  # those of which Knock said 404 since their last record
        self.intervals = Ordered()
        self.due = Ordered()
        # Its requests, and what their answers prove.
        self.key = key
        self.upstream = upstream
        self._epochs = epochs
        self.key_epoch = self._first_epoch = self._moved_epoch = next(epochs)
        self.due_queue = DueQueue(self._is_planned)
        self.health = Health()
        self.in_flight = 0
        self._asked: set[str] = set()  # the operations that a request is under way for
        self.repeated = False  # whether the last check of the key was lost with its connection
        self.last_sent = -math.inf
        self.trusted = False
        self.hinted = False
        self.logged_postponed = False
        self._added = 0
        upstream.join(self)

    @property
    def name(self) -> str:
        """The environment's name."""
        return self.settings.name

    @property
    def stored_memory(self) -> EnvironmentMemory:
        """What the next process is to remember of it."""
        return replace(self.memory, groups=self.groups.admitted, names=self.names.admitted)

    @property
    def only_missing(self) -> bool:
        """Whether Knock said 404 of every operation, and has shown no record of any since."""
        return self.missing == len(self.operations) > 0

    def count(self, before: Tracked | None, after: Tracked | None) -> None:
        """Count an operation as it is now, and no more as it was."""
        for tracked, sign in ((before, -1), (after, 1)):
            if tracked is not None:
                self.lost += sign * tracked.lost
                self.missing += sign * (tracked.missing_since is not None)
        was, is_now = (each.interval if each is not None and each.active else None for each in (before, after))
        self.intervals.exchange(was, is_now)
        was, is_now = (each.due if each is not None else None for each in (before, after))
        self.due.exchange(was, is_now)

    def owns(self, request: PollRequest) -> bool:
        """Whether a request is one of its own."""
        return request.key_epoch >= self._first_epoch

    def moved(self) -> None:
        """Note that the environment has another address or branch, asked with the key epoch of now."""
        self._moved_epoch = self.key_epoch

    def requested_here(self, request: PollRequest) -> bool:
        """Whether a request went to where the environment is now."""
        return request.key_epoch >= self._moved_epoch

    @property
    def free(self) -> bool:
        """Whether one more request may be under way."""
        return self.in_flight < self.settings.max_in_flight

    @property
    def key_check_at(self) -> float:
        """When the key is checked if nothing else is asked until then."""
        return self.last_sent + self.settings.polling.key_check_interval

    def use_key(self, key: Secret) -> None:
        """Start again with another key: what the old one proved no longer counts."""
        self.key = key
        self.key_epoch = next(self._epochs)
        self.trusted = self.hinted = False
        self.health = Health()
        self.check_key_again()

    def use_upstream(self, upstream: Upstream, now: float) -> None:
        """Ask through this upstream from now on; a new one goes on at the pace of the former one."""
        if upstream is self.upstream:
            upstream.circuit_breaker.probe_lost(now)  # the answer that is awaited will be one to a former key
            return
        old, self.upstream = self.upstream, upstream
        is_new = not upstream.environments
        upstream.join(self)
        old.leave(self, now)
        if is_new:
            upstream.rate_limiter.inherit(old.rate_limiter)
            if not old.environments:  # the last second counts: Knock's limit is not of a key
                upstream.send_window = old.send_window

    def plan(self, operation: FollowedOperation, due: float | None = None) -> None:
        """Plan the next request about an operation, for when it is due or for another time.

        While one is under way, its answer plans the next.
        """
        tracked, before = operation.tracked, operation.plan
        operation.plan = None
        if tracked.due is not None and tracked.key.id not in self._asked:
            self._added += 1
            due = tracked.due if due is None else due
            operation.plan = DuePoll(due, self._added, tracked.key.id, tracked.poll_class, tracked.interval)
            self.due_queue.add(operation.plan)
        if before is not None:
            self.due_queue.replaced(before)

    def _is_planned(self, entry: DuePoll) -> bool:
        operation = self.operations.get(entry.id)
        return operation is not None and operation.plan is entry

    def follow(self, operation: FollowedOperation) -> None:
        """Follow a new operation."""
        operation_id = operation.key.id
        operation.memberships = self.index.memberships(operation_id)
        self.index.put(operation_id, ())
        self.operations[operation_id] = operation

    def drop(self, operation: FollowedOperation) -> None:
        """Follow an operation no more."""
        del self.operations[operation.key.id]
        self.index.put(operation.key.id, operation.memberships)
        if operation.plan is not None:
            self.due_queue.replaced(operation.plan)

    def begin(self, operation_id: str, now: float) -> None:
        """Note a request that is sent; NIL_ID: it only checks the key."""
        self.in_flight += 1
        self.last_sent = now
        self._asked.add(operation_id)
        self.activity.sent(now)

    def end(self, operation_id: str, *, lost: bool) -> bool:
        """Note the answer to a request, or that it was lost with its connection; return whether it is repeated.

        Once in a row: a second loss is a failure as any other.
        """
        self.in_flight -= 1
        self._asked.discard(operation_id)
        asked = self if operation_id == NIL_ID else self.operations.get(operation_id)
        if asked is None:
            return lost
        asked.repeated = lost and not asked.repeated
        return asked.repeated

    def check_key_again(self) -> None:
        """Check the key as soon as nothing else is asked."""
        self.last_sent = -math.inf

    def next_due(self) -> float:
        """Return when there is something to ask (inf: not before an answer comes in)."""
        return min(self.due_queue.next_due(), self.key_check_at) if self.free else math.inf


class NextPoll(NamedTuple):
    """What an upstream asks next; without an entry it is a check of the key."""

    environment: WatchedEnvironment
    entry: DuePoll | None


class Upstream:
    """What the environments of one (base URL, key) share."""

    def __init__(self) -> None:
        self.environments: list[WatchedEnvironment] = []
        self.circuit_breaker = CircuitBreaker()
        self.rate_limiter = RateLimiter(1.0)
        self.send_window = SendWindow(1.0)
        self._round_robin = WeightedRoundRobin()
        self._bad: tuple[str, int] = ("", 0)

    def join(self, environment: WatchedEnvironment) -> None:
        """Take an environment in; the lowest limit of all holds."""
        self.environments.append(environment)
        self.use_lowest_limit()

    def leave(self, environment: WatchedEnvironment, now: float) -> None:
        """Let an environment go; if a probe or a key is awaited through it, the others do not wait for that."""
        self.environments.remove(environment)
        self.circuit_breaker.probe_lost(now)
        if self.environments:
            self.use_lowest_limit()

    def use_lowest_limit(self) -> None:
        """Take the lowest limit that its environments set."""
        lowest = min(each.settings.rate_limit for each in self.environments)
        self.rate_limiter.use_limit(lowest)
        self.send_window.limit = lowest

    def next_start(self) -> float:
        """Return when the next request can start (inf: not before an answer comes in)."""
        if not any(environment.free for environment in self.environments):
            return math.inf
        earliest = max(self.rate_limiter.next_start, self.circuit_breaker.probe_at)
        if not self.circuit_breaker.is_closed:
            return earliest
        return max(earliest, min(environment.next_due() for environment in self.environments))

    def choose(self, now: float) -> NextPoll | None:
        """Take what is to be asked now, by turns of the classes and then the most overdue; None: nothing."""
        free = [environment for environment in self.environments if environment.free]
        if not self.circuit_breaker.is_closed:
            # In turn: a key that one environment's branch refuses may be good for the others.
            free = sorted(free, key=lambda environment: environment.last_sent)[:1]
        firsts = {}
        for poll_class in PollClass:
            heads = [
                (*head, number)
                for number, environment in enumerate(free)
                if (head := environment.due_queue.most_overdue(poll_class, now)) is not None
            ]
            if heads:
                firsts[poll_class] = max(heads)
        if firsts:
            chosen = self._round_robin.choose(list(firsts))
            _, bucket, number = firsts[chosen]
            entry = free[number].due_queue.pop(chosen, bucket)
            free[number].operations[entry.id].plan = None
            return NextPoll(free[number], entry)
        return next((NextPoll(environment, None) for environment in free if self._checks_key(environment, now)), None)

    def _checks_key(self, environment: WatchedEnvironment, now: float) -> bool:
        return not self.circuit_breaker.is_closed or environment.key_check_at <= now

    def good_response(self) -> None:
        """Note an answer as Knock documents it."""
        self._bad = ("", 0)

    def bad_response(self, field: str) -> bool:
        """Note an answer that is bad in a field; return whether it is time to say so in the log."""
        streak = self._bad[1] + 1 if self._bad[0] == field else 1
        self._bad = (field, streak)
        return streak == BAD_RESPONSES_BEFORE_LOG
