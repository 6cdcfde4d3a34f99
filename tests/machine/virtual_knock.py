"""Knock in virtual time: the simulator's world, what spoils its answers, and who asked for what how often."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from exporter.simulator import Order, World
from exporter.simulator.world import Clock

BEGIN = 1_800_000_000.0  # Unix seconds
ORDERS = {
    "over at once": Order(rows=40, queue_seconds=0.5, rows_per_second=1000),
    "with errors": Order(rows=60, queue_seconds=8, rows_per_second=5, errors=7),
    "fails": Order(name="users.delete", rows=500, queue_seconds=20, rows_per_second=10, fails=True),
    "for minutes": Order(rows=3000, queue_seconds=30, rows_per_second=10),
    "for hours": Order(name="objects.books.set", rows=90_000, queue_seconds=40, rows_per_second=9, errors=30),
    "for days": Order(rows=900_000, queue_seconds=3, rows_per_second=6, errors=40),
    "stalls": Order(rows=900, queue_seconds=5, rows_per_second=20, stalls=True),
    "waits": Order(rows=10, queue_seconds=90_000, rows_per_second=1),
}


class Trouble(NamedTuple):
    """What comes in place of a document, and as what failed polls are counted by."""

    name: str
    reason: str
    code: int | None = None
    retry_after: float | None = None


INVALID = Trouble("invalid", "bad_response", 200)  # a document that cannot be right
TROUBLES = {
    each.name: each
    for each in (
        Trouble("not found", "not_found", 404),
        Trouble("key refused", "unauthorized", 401),
        Trouble("limited", "rate_limited", 429),
        Trouble("limited for 2 s", "rate_limited", 429, 2.0),
        Trouble("limited for 5 min", "rate_limited", 429, 300.0),
        Trouble("server error", "server_error", 502),
        Trouble("client error", "client_error", 422),
        Trouble("timeout", "timeout"),
        Trouble("no connection", "connect"),
        Trouble("connection lost", "connect"),  # a kept one that had ended
        Trouble("page", "bad_response", 404),  # of a proxy
        Trouble("too large", "too_large", 200),
        Trouble("no memory", "too_large", 200),  # of the exporter's own
    )
}
ODDITIES: dict[str, dict[str, Any]] = {
    "undocumented": {"status": "paused"},
    "undocumented and over": {"status": "archived", "completed_at": "2027-01-15T09:00:00Z"},
    "undocumented and failed": {"status": "cancelled", "failed_at": "2027-01-15T09:00:00Z"},
    "went back": {"processed_rows": 3, "success_count": 3, "status": "processing"},
    "without counts": {"processed_rows": None, "success_count": None, "error_count": None},
    "without a name": {"name": None},
    "not inserted": {"inserted_at": None},
    "bad count": {"processed_rows": -1},
    "bad time": {"started_at": "yesterday"},
    "bad status": {"status": None},
}
TIMEOUT_SECONDS = 10.0


class Moment(NamedTuple):
    """One point in time on both of a computer's clocks."""

    mono: float
    wall: float


@dataclass
class Time:
    """The time that passes (`true`), and the machine's two clocks, which may be set and begin again."""

    true: float = 0.0
    mono: float = 1000.0
    wall_step: float = 0.0

    @property
    def now(self) -> Moment:
        return Moment(self.mono, BEGIN + self.true + self.wall_step)

    def sleep(self, seconds: float) -> None:
        self.pass_until(self.mono + seconds)

    def pass_until(self, mono: float) -> None:
        """Let time pass until the monotonic clock shows exactly this."""
        self.true, self.mono = self.true + max(0.0, mono - self.mono), max(self.mono, mono)


@dataclass(frozen=True, eq=False)
class Asked:
    """One request as Knock meets it; `at` is the true time."""

    at: float
    environment: str
    id: str
    base_url: str
    branch: str | None
    key: str
    checks_key: bool


@dataclass
class Knock:
    """Answers with a document or a trouble; the counts of an operation only grow, unless an oddity says otherwise."""

    time: Time
    seed: int
    troubles: dict[str, str] = field(default_factory=dict)  # by id, "" of all
    oddities: dict[str, str] = field(default_factory=dict)  # by id
    revoked: set[str] = field(default_factory=set)
    most: dict[tuple[str, str], tuple[int, int, int]] = field(default_factory=dict)  # rows, successes, errors told

    def __post_init__(self) -> None:
        clock = Clock(lambda: self.time.true, lambda: BEGIN + self.time.true)
        self.world = World(self.seed, clock=clock)
        self._recent: dict[tuple[str, str], deque[float]] = {}

    def note(self, asked: Asked) -> int:
        """Count a request; return how many came in the second that ends with it, on its URL and key."""
        recent = self._recent.setdefault((asked.base_url, asked.key), deque())
        recent.append(asked.at)
        while recent[0] <= asked.at - 1.0:
            recent.popleft()
        return len(recent)

    def latency(self, asked: Asked, chance: float) -> float:
        trouble = self.troubles.get(asked.id) or self.troubles.get("")
        return TIMEOUT_SECONDS if trouble == "timeout" else (0.03, 0.05, 0.4, 2.5)[int(chance * 4)]

    def answer(self, asked: Asked) -> dict[str, Any] | Trouble:
        if asked.key in self.revoked:
            return TROUBLES["key refused"]
        troubled = asked.id if asked.id in self.troubles else ""
        if (trouble := self.troubles.get(troubled)) is not None:
            if trouble == "no memory":  # asked again each second, so that a day of it would take an hour to run
                del self.troubles[troubled]
            return TROUBLES[trouble]
        document = None if asked.checks_key else self.world.read(asked.id)
        if document is None:
            return TROUBLES["not found"]
        told: dict[str, Any] = document | ODDITIES.get(self.oddities.get(asked.id, ""), {})
        counts = (told["processed_rows"] or 0, told["success_count"] or 0, told.get("error_count") or 0)
        before = self.most.get((asked.environment, asked.id), (0, 0, 0))
        self.most[asked.environment, asked.id] = (
            max(before[0], counts[0]), max(before[1], counts[1]), max(before[2], counts[2])
        )  # fmt: skip
        return told
