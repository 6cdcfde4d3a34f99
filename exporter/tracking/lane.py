"""Upstreams: environments that share a base URL and a key share one pace, one suspension and one wait.

Knock counts requests per environment and cannot be asked which environment a key belongs to; what shares a key surely
shares a limit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from exporter.tracking.pacing import Agenda, Entry, Gate, Pacer, PollClass, Turns
from exporter.tracking.standing import Standing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.config import Environment
    from exporter.keys import Secret
    from exporter.tracking.messages import Request
    from exporter.tracking.record import Tracked

MISSES_BEFORE_DOWN, DOWN_SECONDS = 3, 30.0
BAD_ANSWERS_BEFORE_LOG = 5


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


class Asker:
    """The asking of one environment: its planned requests, and what its answers prove.

    `trusted`: a record came since key, branch or URL changed, so a 404 means that the operation is gone, not that the
    key belongs elsewhere. `key_epoch` counts the keys, so that an answer to an old one is not held against a new one;
    `epochs` counts those of all pollers, so that an answer to a former poller of this name is known for what it is.
    """

    def __init__(self, settings: Environment, key: Secret, epochs: Iterator[int]) -> None:
        self.settings = settings
        self.key = key
        self._epochs = epochs
        self.key_epoch = self._first_epoch = self._moved_epoch = next(epochs)
        self.agenda = Agenda()
        self.health = Health()
        self.standing = Standing()
        self.in_flight = 0
        self._asked: set[str] = set()  # the operations that a request is under way for
        self._repeated: set[str] = set()  # those whose last request was lost with its connection
        self.last_sent = -math.inf
        self.trusted = False
        self.hinted = False
        self.told_postponed = False
        self._added = 0

    @property
    def name(self) -> str:
        """The environment's name."""
        return self.settings.name

    def sent(self, request: Request) -> bool:
        """Whether a request is one of its own."""
        return request.key_epoch >= self._first_epoch

    def moved(self) -> None:
        """Note that the environment has another address or branch, asked with the key epoch of now."""
        self._moved_epoch = self.key_epoch

    def asked_here(self, request: Request) -> bool:
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

    def plan(self, tracked: Tracked) -> None:
        """Plan the next request about an operation as it is now; while one is under way, its answer plans the next."""
        if tracked.due is None:
            self.drop(tracked.key.id)
        elif tracked.key.id not in self._asked:
            self._added += 1
            self.agenda.add(Entry(tracked.due, self._added, tracked.key.id, tracked.poll_class, tracked.interval))

    def put_off(self, entry: Entry, due: float) -> None:
        """Plan again, for later, what could not be sent."""
        self._added += 1
        self.agenda.add(entry._replace(due=due, number=self._added))

    def drop(self, operation_id: str) -> None:
        """Plan nothing about an operation any more."""
        self.agenda.discard(operation_id)
        self._repeated.discard(operation_id)

    def begin(self, operation_id: str, now: float) -> None:
        """Note a request that is sent; NIL_ID: it only checks the key."""
        self.in_flight += 1
        self.last_sent = now
        self._asked.add(operation_id)
        self.standing.sent(now)

    def end(self, operation_id: str, *, lost: bool) -> bool:
        """Note the answer to a request, or that it was lost with its connection; return whether it is repeated.

        Once in a row: a second loss is a failure as any other.
        """
        self.in_flight -= 1
        self._asked.discard(operation_id)
        repeat = lost and operation_id not in self._repeated
        (self._repeated.add if repeat else self._repeated.discard)(operation_id)
        return repeat

    def check_key_again(self) -> None:
        """Check the key as soon as nothing else is asked."""
        self.last_sent = -math.inf

    def next_due(self) -> float:
        """Return when there is something to ask (inf: not before an answer comes in)."""
        return min(self.agenda.next_due(), self.key_check_at) if self.free else math.inf


class Choice(NamedTuple):
    """What an upstream asks next; without an entry it is a check of the key."""

    asker: Asker
    entry: Entry | None


class Lane:
    """What the environments of one (base URL, key) share."""

    def __init__(self) -> None:
        self.askers: list[Asker] = []
        self.gate = Gate()
        self.pacer = Pacer(1.0)
        self._turns = Turns()
        self._bad: tuple[str, int] = ("", 0)

    def join(self, asker: Asker) -> None:
        """Take an environment in; the lowest limit of all holds."""
        if self.askers:
            self.askers.append(asker)
            self.use_lowest_limit()
        else:
            self.askers.append(asker)
            self.pacer = Pacer(asker.settings.rate_limit)

    def leave(self, asker: Asker, now: float) -> None:
        """Let an environment go; if a probe or a key is awaited through it, the others do not wait for that."""
        self.askers.remove(asker)
        self.gate.probe_lost(now)
        if self.askers:
            self.use_lowest_limit()

    def use_lowest_limit(self) -> None:
        """Take the lowest limit that its environments set."""
        self.pacer.use_limit(min(each.settings.rate_limit for each in self.askers))

    def next_start(self) -> float:
        """Return when the next request can start (inf: not before an answer comes in)."""
        if not any(asker.free for asker in self.askers):
            return math.inf
        earliest = max(self.pacer.next_start, self.gate.probe_at)
        if not self.gate.is_open:
            return earliest
        return max(earliest, min(asker.next_due() for asker in self.askers))

    def choose(self, now: float) -> Choice | None:
        """Take what is to be asked now, by turns of the classes and then the most overdue; None: nothing."""
        free = [asker for asker in self.askers if asker.free]
        if not self.gate.is_open:
            # In turn: a key that one environment's branch refuses may be good for the others.
            free = sorted(free, key=lambda asker: asker.last_sent)[:1]
        firsts = {}
        for poll_class in PollClass:
            heads = [
                (*head, number)
                for number, asker in enumerate(free)
                if (head := asker.agenda.most_overdue(poll_class, now)) is not None
            ]
            if heads:
                firsts[poll_class] = max(heads)
        if firsts:
            chosen = self._turns.choose(list(firsts))
            _, bucket, number = firsts[chosen]
            return Choice(free[number], free[number].agenda.pop(chosen, bucket))
        return next((Choice(asker, None) for asker in free if self._checks_key(asker, now)), None)

    def _checks_key(self, asker: Asker, now: float) -> bool:
        return not self.gate.is_open or asker.key_check_at <= now

    def good_answer(self) -> None:
        """Note an answer as Knock documents it."""
        self._bad = ("", 0)

    def bad_answer(self, field: str) -> bool:
        """Note an answer that is bad in a field; return whether it is time to say so in the log."""
        streak = self._bad[1] + 1 if self._bad[0] == field else 1
        self._bad = (field, streak)
        return streak == BAD_ANSWERS_BEFORE_LOG
