"""A real exporter for hours at Knock's limit: killed in the first third, left to itself after that.

In both, operations come and go, the configuration is reloaded or the key rotated each minute, and each scrape is kept
as a sample. What `kills` checks has to hold; what is sampled must not grow.
"""

from __future__ import annotations

import math
import re
import statistics
import time
from collections import Counter
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kills import Conditions, Life, Round
from line_charts import Heading, Line, draw
from load import NIGHTLY, PRODUCTION, Pace
from programs import KEY

from exporter.simulator.faults import Drop, Latency, RateLimit, StatusFault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from programs import Exporter

SCRAPE_SECONDS, CHANGE_SECONDS = 15.0, 60.0
KILLS_SHARE, WATCHED_SHARE = 1 / 3, 1 / 2  # of the time, and of what is left then: its last part is watched
LEFT_SECONDS = 240.0  # at least, after the kills
MEBI, HOUR = 2**20, 3600.0
# Some 18 operations a second that run two minutes, and those that last, are due more often than 200 times a second.
CONDITIONS = Conditions(
    pace=Pace(pause_seconds=(0.0, 1.4), run_seconds=(20.0, 220.0), lasting=1000),
    retention={PRODUCTION: 30.0, NIGHTLY: 30.0},
    settings={
        "rate_limit": 200,
        "per_operation_limit": 1000,
        "api_key_file": "knock.key",
    },  # one key: one limit for both
    faults=(
        Latency(seconds=0.08, share=0.3),
        StatusFault(status=502, body="html", share=0.005),
        Drop(share=0.005),
        RateLimit(retry_after=0.5, share=0.00002),  # each takes a quarter of the limit for half a minute
    ),
    up_seconds=(20.0, 200.0),
    long_seconds=(200.0, 300.0),
    watch_seconds=SCRAPE_SECONDS,
    settled_seconds=300.0,
)


class Sample(NamedTuple):
    """A process at a scrape; rates are since the one before it, None at the first of a process."""

    at: float  # seconds since the soak began
    memory: float  # MiB, resident
    descriptors: float
    threads: float
    state: float  # MiB, with the log of SQLite
    operations: float
    oldest: float | None  # seconds since the oldest answer that is shown of an operation that runs
    polls: float | None = None  # a second
    delay: float | None = None  # seconds from when a poll was due until it was sent, on average
    cpu: float | None = None  # of a core


class Bound(NamedTuple):
    """By how much a figure may rise while it is watched: at all, since no figure stands still, and in an hour."""

    name: str
    unit: str
    once: float
    hourly: float = 0.0

    def allows(self, seconds: float) -> float:
        return self.once + self.hourly * seconds / HOUR


# Of what retired a tombstone is kept for a month: 66,000 an hour, of 27 bytes in memory and 44 on disk.
# A process is watched late, for its memory: the chart of an operation that lasts has all its points after 60 polls.
BOUNDS = {
    "polls": Bound("polls", "a second", math.inf),  # each 429 takes some; falling behind shows in the delay
    "operations": Bound("operations", "", 400.0),
    "memory": Bound("memory", "MiB", 4.0, 6.0),
    "descriptors": Bound("open descriptors", "", 4.0),
    "threads": Bound("threads", "", 4.0),
    "delay": Bound("delay of a poll", "s", 2.0),
    "oldest": Bound("age of the oldest answer", "s", 5.0),
    "cpu": Bound("CPU", "of a core", 0.1),
    "state": Bound("state file", "MiB", 4.0, 8.0),  # a write-ahead log is up to 4 MB
}


def rise(samples: Sequence[tuple[float, float]]) -> float:
    """Return by how much a line through these, fitted by least squares, rises from the first to the last."""
    at, values = zip(*samples, strict=True)
    return statistics.linear_regression(at, values).slope * float(at[-1] - at[0])


def growth(samples: Sequence[Sample]) -> Iterator[tuple[Bound, float, float]]:
    """Return of each figure its mean, and by how much it rose."""
    for name, bound in BOUNDS.items():
        known = [(each.at, getattr(each, name)) for each in samples if getattr(each, name) is not None]
        yield bound, statistics.fmean(value for _, value in known), rise(known)


def total(text: str, name: str, labels: str = "") -> float:
    """Return the sum of the samples of a name."""
    return sum(map(float, re.findall(rf"(?m)^{name}(?:\{{[^}}]*{labels}[^}}]*\}})? (\S+)$", text)))


class Sampler:
    """Makes samples of scrapes of one process."""

    def __init__(self, exporter: Exporter, state: Path, began: float, keep: Callable[[Sample], None]) -> None:
        self._exporter = exporter
        self._state = state
        self._began = began
        self._keep = keep
        self._before: tuple[float, ...] = ()

    def __call__(self, text: str) -> None:
        oldest = re.findall(r"(?m)^knock_bulk_operations_oldest_active_last_success_\S+ (\S+)$", text)
        delay = "knock_exporter_poll_delay_seconds"
        now = (
            time.monotonic(),
            total(text, "knock_exporter_polls_total"),
            total(text, f"{delay}_sum", 'class="live"'),
            total(text, f"{delay}_count", 'class="live"'),
            total(text, "process_cpu_seconds_total"),
        )
        rates: dict[str, float] = {}
        if self._before:
            seconds, polls, delays, delayed, cpu = (one - other for one, other in zip(now, self._before, strict=True))
            rates = {"polls": polls / seconds, "delay": delays / max(1.0, delayed), "cpu": cpu / seconds}
        self._before = now
        try:
            threads = len(list(Path(f"/proc/{self._exporter.process.pid}/task").iterdir()))
        except FileNotFoundError:  # it was killed since then
            return
        sample = Sample(
            at=now[0] - self._began,
            memory=total(text, "process_resident_memory_bytes") / MEBI,
            descriptors=total(text, "process_open_fds"),
            threads=threads,
            state=sum(each.stat().st_size for each in self._state.parent.glob("state.db*")) / MEBI,
            operations=total(text, "knock_exporter_operations"),
            oldest=time.time() - min(map(float, oldest)) if oldest else None,
        )
        self._keep(sample._replace(**rates))


class Soak(Round):
    """A round that takes hours."""

    def __init__(self, folder: Path, seed: int, hours: float) -> None:
        super().__init__(folder, seed, CONDITIONS)
        self.samples: list[Sample] = []
        self.killed_at: list[float] = []
        self.changes: Counter[str] = Counter()
        self._state = folder / "state.db"
        self._began = time.monotonic()
        self._seconds = hours * HOUR
        self._left_at = self._ends_at = 0.0  # seconds since the beginning: between them, nothing was killed

    @property
    def passed(self) -> float:
        """The seconds since it began."""
        return time.monotonic() - self._began

    def run_for_hours(self) -> None:
        """Soak, and note what was found."""
        self._run(lambda: self.passed < self._seconds * KILLS_SHARE)
        if not self.problems:
            for bound, _, rose in growth(self.watched):
                if rose > bound.allows(self.watched_seconds):
                    self.problems.append(f"{bound.name} rose by {rose:.1f} {bound.unit}")

    @property
    def watched(self) -> list[Sample]:
        """The last samples of the last process while there was load."""
        begin = self._ends_at - WATCHED_SHARE * (self._ends_at - self._left_at)
        return [each for each in self.samples if begin <= each.at <= self._ends_at]

    @property
    def watched_seconds(self) -> float:
        """How long they were watched."""
        return self.watched[-1].at - self.watched[0].at

    def _begin(self) -> tuple[Life, Exporter]:
        life, exporter = super()._begin()
        life.scraped = Sampler(exporter, self._state, self._began, self.samples.append)
        return life, exporter

    def _judge(self, life: Life, exporter: Exporter) -> None:
        self.killed_at += [] if life.settled else [self.passed]
        super()._judge(life, exporter)

    def _outlive(self, exporter: Exporter) -> None:
        exporter.urls()
        self._left_at = self.passed
        self._ends_at = max(self._seconds, self._left_at + LEFT_SECONDS)
        self._wait(exporter, self._ends_at - self._left_at)

    def _wait(self, exporter: Exporter, seconds: float) -> None:
        """Let so much time pass; reload or rotate each minute, and see that it was done."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0.0 and exporter.process.poll() is None:
            super()._wait(exporter, min(left, CHANGE_SECONDS))
            if left > CHANGE_SECONDS:
                self._change(exporter)

    def _change(self, exporter: Exporter) -> None:
        number, output = self.changes.total(), exporter.output
        if number % 2:
            self._starter.use_key(f"{KEY}{number}")
            says, what = "using the changed API key", "rotations"
        else:
            self._configure(per_operation_limit=900 + number % 100)
            says, what = "configuration reloaded", "reloads"
        exporter.said(says, output.count(says) + 1)
        self.changes[what] += 1

    def picture(self) -> str:
        """Draw what was sampled."""
        note = (
            f"{self.polls:,} polls, {self.kills} kills (red), {self.changes.total()} reloads and rotations of the key"
        )
        # A line is broken where a process was killed.
        drawn = sorted(
            [*((each.at, each) for each in self.samples), *((at, None) for at in self.killed_at)], key=itemgetter(0)
        )
        return draw(
            Heading(f"{self._seconds / 60:.0f} minutes at Knock's limit", note, "min"),
            [at / 60 for at, _ in drawn],
            [
                Line(bound.name, bound.unit, [getattr(each, name, None) for _, each in drawn])
                for name, bound in BOUNDS.items()
            ],
            [at / 60 for at in self.killed_at],
        )
