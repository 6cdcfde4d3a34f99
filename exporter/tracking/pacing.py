"""When to ask again, and who is next: pure, with time and chance as arguments.

Times are monotonic seconds, so a wall clock that jumps neither stops nor bursts the asking. `chance` is a number from 0
to 1. The numbers are those of docs/behaviour.md.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from enum import StrEnum
from heapq import heappop, heappush
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from exporter.operation import Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.config import Polling

SPREAD_LEAST = 0.8
CHANGE_SHARE = 0.05  # of the time since the last change: what has stood still for long is asked less often
OLD_INTERVAL = 3600.0  # for an operation unfinished after `max_age`
RETRY_FIRST, RETRY_MOST = 10.0, 300.0
ODD_STATUS_MOST = 3600.0
MISSING_FIRST, MISSING_MOST = 60.0, 3600.0
MISSING_GRACE = 300.0  # since hand-over: Knock may not be able to read yet what it just made
TOO_LARGE_LEAST = 60.0
LARGE_BYTES_A_SECOND = 16 * 2**20 / TOO_LARGE_LEAST  # of each operation: one of 16 MiB is asked once a minute
STALE_INTERVALS, STALE_SLACK = 3.0, 30.0

SCRAPES_SECONDS = 300.0  # of scrapes that tell how often there are some
SCRAPES_LEAST = 3
SCRAPES_LATE = 2.0  # times their mean interval: later ones are not regular
SCRAPES_MOST = 15.0  # seconds; where scrapes are further apart, polls are not

LIMIT_USE = 0.985  # of the limit: with CATCH_UP it keeps every 1 s window at the server under it
CATCH_UP = 0.005
HALVE_SHARE_LEAST, HALVE_LEAST = 0.02, 0.2  # the limit never falls below 2% of itself, nor below 0.2 a second
GROWTH_SHARE = 0.02  # of the configured limit, for each second of clean sending
UNTOLD_WAIT_MOST = 60.0  # 1, 2, 4 … seconds after a 429 that names no time
PROBE_FIRST, PROBE_MOST = 30.0, 600.0


class PollClass(StrEnum):
    """The three classes that share an upstream's slots."""

    NEW = "new"
    LIVE = "live"
    RETRY = "retry"


SLOTS = {PollClass.NEW: 5, PollClass.LIVE: 4, PollClass.RETRY: 1}


def spread(interval: float, chance: float) -> float:
    """Take 0.8 to 1.0 of the interval, so that operations started together do not stay together."""
    return interval * (SPREAD_LEAST + (1 - SPREAD_LEAST) * chance)


def doubling(first: float, attempt: int, most: float) -> float:
    """Return `first` for attempt 1, twice that for 2, and so on up to `most`."""
    return min(first * 2.0 ** min(attempt - 1, 60), most)


def live_interval(status: Status, unchanged: float, age: float, polling: Polling) -> float:
    """Return the seconds between polls of an unfinished operation.

    `unchanged` is the time since status or counts last changed, `age` the time since it was handed over.
    """
    base = polling.processing if status is Status.PROCESSING else polling.queued
    if age >= polling.max_age:
        return max(OLD_INTERVAL, base)
    return min(max(CHANGE_SHARE * unchanged, base), polling.slowest)


def size_interval(size: int) -> float:
    """Return the seconds between polls of an operation whose answer has so many bytes, at least."""
    return size / LARGE_BYTES_A_SECOND / SPREAD_LEAST


def missing_interval(attempt: int, polling: Polling) -> float:
    """Return the seconds until a 404 is asked again; `attempt` counts those that prove something, 0: none yet."""
    if attempt == 0:
        return polling.queued
    return doubling(MISSING_FIRST, attempt, MISSING_MOST)


class ScrapeRhythm:
    """How often `/metrics` is scraped: what runs need not be polled more often, where that is regular."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()
        self._interval, self._holds_until = 0.0, -math.inf

    def scraped(self, at: float) -> None:
        """Note a scrape."""
        times = self._times
        times.append(at)
        while times[0] < at - SCRAPES_SECONDS:
            times.popleft()
        if len(times) >= SCRAPES_LEAST:
            self._interval = (at - times[0]) / (len(times) - 1)
            longest = max(later - earlier for earlier, later in pairwise(times))
            is_regular = longest <= SCRAPES_LATE * self._interval
            self._holds_until = at + SCRAPES_LATE * self._interval if is_regular else -math.inf

    def adapted(self, polling: Polling, now: float) -> Polling:
        """Return the intervals to poll by."""
        interval = min(self._interval, SCRAPES_MOST)
        if now > self._holds_until or interval <= polling.processing:
            return polling
        return replace(polling, processing=interval)


class RateLimiter:
    """Spaces the requests of an upstream evenly, and slows down when Knock says 429."""

    def __init__(self, limit: float) -> None:
        self.limit = limit  # requests a second, as configured
        self.rate = limit  # requests a second that are allowed now
        self.next_start = -math.inf
        self._last_start = -math.inf
        self._halved_at = -math.inf
        self._untold = 0

    def start(self, now: float) -> None:
        """Take the slot that is free at `now`."""
        gap = 1.0 / (LIMIT_USE * self.rate)
        self.next_start = max(self.next_start, now - CATCH_UP) + gap
        if self.rate < self.limit:
            self.rate = min(self.limit, self.rate + GROWTH_SHARE * self.limit * min(now - self._last_start, gap))
        self._last_start = now

    def limited(self, now: float, sent_at: float, retry_after: float | None, chance: float) -> bool:
        """Note a 429 to the request sent at `sent_at`; return whether it began a new episode."""
        fresh = sent_at > self._halved_at
        if fresh:
            self.rate = self._bounded(self.rate / 2.0)
            self._halved_at = now
        if retry_after is None:
            # At least the first: the one that began the episode may have named a time.
            self._untold = max(self._untold + fresh, 1)
            retry_after = doubling(1.0, self._untold, UNTOLD_WAIT_MOST) * (0.8 + 0.4 * chance)
        self.next_start = max(self.next_start, now + retry_after)
        return fresh

    def accepted(self, sent_at: float) -> None:
        """Note that a request sent after the last 429 was answered."""
        if sent_at > self._halved_at:
            self._untold = 0

    def use_limit(self, limit: float) -> None:
        """Take another configured limit; what was learnt from 429s stays in proportion."""
        share, self.limit = self.rate / self.limit, limit
        self.rate = self._bounded(share * limit)

    def inherit(self, other: RateLimiter) -> None:
        """Go on where another rate limiter is: Knock's limit does not start again with a new key."""
        self.rate = self.limit if other.rate >= other.limit else self._bounded(other.rate)
        self.next_start, self._last_start = other.next_start, other._last_start
        self._halved_at, self._untold = other._halved_at, other._untold

    def _bounded(self, rate: float) -> float:
        return min(self.limit, max(rate, HALVE_SHARE_LEAST * self.limit, HALVE_LEAST))


class CircuitBreaker:
    """Lets an upstream send; open, and then only for probes, while its key is refused.

    The first refusal makes the owner read the key again; then one request at a time probes: at once, after 30 s, and
    doubling to 10 minutes.
    """

    def __init__(self) -> None:
        self.is_closed = True
        self.suspended = False  # refused twice: the key itself is bad
        self._closed_at = -math.inf
        self._probe_at = math.inf
        self._wait = 0.0

    @property
    def probe_at(self) -> float:
        """When the next request may start: now (-inf) while closed, never (inf) while a probe or the key is awaited."""
        return -math.inf if self.is_closed else self._probe_at

    def is_late(self, sent_at: float, *, good: bool) -> bool:
        """Whether an answer, but for a probe's, tells of the key as it was before the circuit breaker changed."""
        return sent_at < self._closed_at if not good else not self.is_closed

    def refused(self, now: float, *, probe: bool) -> bool:
        """Note a refusal; return whether the key must be read again before the first probe."""
        if self.is_closed:
            self.is_closed, self._probe_at = False, math.inf
            return True
        if probe:
            self.suspended = True
            self._probe_later(now)
        return False

    def _probe_later(self, now: float) -> None:
        self._wait = min(max(2 * self._wait, PROBE_FIRST), PROBE_MOST)
        self._probe_at = now + self._wait

    def key_was_read(self, now: float) -> None:
        """Let the first probe go: the key was read again and is the same."""
        if not self.is_closed and not self.suspended:
            self._probe_at = now

    def probe_started(self) -> None:
        """Hold everything else until the probe is answered."""
        self._probe_at = math.inf

    def probe_failed(self, now: float) -> None:
        """Note a probe that says nothing about the key (a timeout, a 5xx): the next one waits as after a refusal."""
        self._probe_later(now)

    def probe_lost(self, now: float) -> None:
        """Let another probe go soon: the one that was awaited left the upstream with its environment."""
        self._probe_at = now + 1.0

    def accepted(self, now: float) -> None:
        """Close: the probe's answer shows that Knock takes the key."""
        self._closed_at = now
        self.is_closed, self.suspended = True, False
        self._probe_at, self._wait = math.inf, 0.0


class DuePoll(NamedTuple):
    """One planned request; orders by its time."""

    due: float
    number: int  # tells the plans of one operation apart
    id: str
    poll_class: PollClass
    interval: float


class DueQueue:
    """The planned requests of one environment: by class, and inside a class by how often they are meant to be asked.

    "Most overdue by its own interval" changes its order with time, so no single heap can hold it. Entries are kept in
    heaps of nearly equal intervals (within 19%), and only their heads are compared. `is_planned` tells whether one
    is still the plan of its operation: one that is replaced stays in its heap until it comes to the head.
    """

    def __init__(self, is_planned: Callable[[DuePoll], bool]) -> None:
        self._is_planned = is_planned
        self._heaps: dict[PollClass, dict[int, list[DuePoll]]] = {each: {} for each in PollClass}

    def add(self, entry: DuePoll) -> None:
        """Take in a request that is planned."""
        heappush(self._heaps[entry.poll_class].setdefault(_bucket(entry), []), entry)

    def replaced(self, entry: DuePoll) -> None:
        """Note that a request is planned no more; each is told of, as the heads must be planned ones."""
        self._settle(entry.poll_class, _bucket(entry))

    def _settle(self, poll_class: PollClass, bucket: int) -> None:
        heap = self._heaps[poll_class][bucket]
        while heap and not self._is_planned(heap[0]):
            heappop(heap)
        if not heap:
            del self._heaps[poll_class][bucket]

    def next_due(self) -> float:
        """Return when the earliest request is due (inf: nothing is planned)."""
        return min((heap[0].due for heaps in self._heaps.values() for heap in heaps.values()), default=math.inf)

    def most_overdue(self, poll_class: PollClass, now: float) -> tuple[float, int] | None:
        """Return (how overdue, in its own intervals; bucket) of the first in line, or None if nothing is due."""
        heads = (
            ((now - heap[0].due) / heap[0].interval, bucket)
            for bucket, heap in self._heaps[poll_class].items()
            if heap[0].due <= now
        )
        return max(heads, default=None)

    def pop(self, poll_class: PollClass, bucket: int) -> DuePoll:
        """Take the first in line out of a bucket that `most_overdue` named."""
        entry = heappop(self._heaps[poll_class][bucket])
        self._settle(poll_class, bucket)
        return entry


def _bucket(entry: DuePoll) -> int:
    return round(4 * math.log2(max(entry.interval, 0.001)))


class WeightedRoundRobin:
    """Shares slots among the classes that have work, 5 : 4 : 1 (smooth weighted round robin)."""

    def __init__(self) -> None:
        self._credit = dict.fromkeys(PollClass, 0)

    def choose(self, waiting: list[PollClass]) -> PollClass:
        """Return whose turn it is among those with work (at least one)."""
        for each in waiting:
            self._credit[each] += SLOTS[each]
        chosen = max(waiting, key=self._credit.__getitem__)
        self._credit[chosen] -= sum(SLOTS[each] for each in waiting)
        return chosen
