"""Draws docs/pictures/day.svg: a day of a very large customer, in virtual time. `make day` takes some minutes.

86,400 operations of three environments: half of them are those of nightly jobs. The tracker is the real one; requests
and responses do not pass a socket, so CPU is that of the tracker alone.
"""

from __future__ import annotations

import logging
import os
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import structlog
from line_charts import Heading, Line, draw
from model import Model, environment

from exporter.config import Config
from exporter.errors import KnockError, NotFound
from exporter.operation import NIL_ID, Operation, parse_operation
from exporter.simulator import Clock, Shares, World
from exporter.tracking.messages import Scraped

if TYPE_CHECKING:
    from exporter.tracking.messages import PollRequest
    from exporter.tracking.transitions import Moment

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "day.svg"
SEED, DAY_HOURS, HOUR, SCRAPE = 1, 24, 3600, 15
# Operations that each environment starts in a day, and the hours of its nightly job, which is half of them.
STARTED = {"eu": (40_000, (1, 2)), "us": (30_000, (7, 8)), "staging": (16_400, (2, 3))}
RATE_LIMIT, RETENTION, ROWS = 50.0, 6.0 * HOUR, (500, 8_000)
PER_SAMPLE = 20  # scrapes: five minutes
MEBI = 2**20


class Sample(NamedTuple):
    """A day at one moment."""

    requests: float  # a second
    delay: float  # seconds from when a poll was due, on average
    unfinished: int
    followed: float
    memory: float  # MiB, of this process
    cpu: float  # % of a core


class Day:
    """The tracker, and Knock, through a day."""

    def __init__(self) -> None:
        self._chance = random.Random(SEED)  # noqa: S311 - the same day each time
        self._answering = 0.0  # CPU seconds of Knock, which are not the tracker's
        self._unfinished: set[str] = set()
        environments = tuple(environment(each, rate_limit=RATE_LIMIT, retention=RETENTION) for each in STARTED)
        config = Config(environments, max_operations=100_000)
        self._model = Model(config, self._answer, chance=self._chance.random)
        clock = Clock(lambda: self._model.mono, lambda: self._model.now.wall)
        self._world = World(SEED, shares=Shares(errors=0.1, fails=0.03), clock=clock)

    def _answer(self, request: PollRequest, _now: Moment) -> Operation | KnockError:
        began = time.process_time()
        document = None if request.id == NIL_ID else self._world.read(request.id)
        answer = (
            NotFound("HTTP 404", code=404, accepted_key=True)
            if document is None
            else parse_operation(document, request.id)
        )
        if isinstance(answer, Operation) and answer.status.final:
            self._unfinished.discard(request.id)
            self._world.forget(request.id)
        self._answering += time.process_time() - began
        return answer

    def _start(self, second: int) -> None:
        for name, (count, job) in STARTED.items():
            rate = count / 2 / (DAY_HOURS * HOUR) + (second // HOUR in job) * count / 2 / (len(job) * HOUR)
            expected = rate * SCRAPE
            started = int(expected) + (self._chance.random() < expected % 1)
            made = [self._world.create(rows=self._chance.randint(*ROWS)) for _ in range(started)]
            self._unfinished.update(made)
            if made:
                self._model.register(*made, environment=name)

    def _total(self, name: str) -> float:
        families = self._model.activity.registry.collect()
        return sum(each.value for family in families for each in family.samples if each.name == name)

    def samples(self) -> list[Sample]:
        """Let the day pass."""
        found = []
        counted = cpu = delayed = 0.0
        for second in range(0, DAY_HOURS * HOUR, SCRAPE):
            began, answering = time.process_time(), self._answering
            self._start(second)
            self._model.tell(Scraped(self._model.mono))
            self._model.run(SCRAPE)
            self._model.views[:-1] = []
            self._model.sent.clear()
            cpu += time.process_time() - began - (self._answering - answering)
            if second // SCRAPE % PER_SAMPLE == PER_SAMPLE - 1:
                polls = self._total("knock_exporter_poll_delay_seconds_count")
                delay = self._total("knock_exporter_poll_delay_seconds_sum")
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                found.append(
                    Sample(
                        (polls - counted) / (PER_SAMPLE * SCRAPE),
                        (delay - delayed) / max(1.0, polls - counted),
                        len(self._unfinished),
                        self._total("knock_exporter_operations"),
                        pages * os.sysconf("SC_PAGE_SIZE") / MEBI,
                        100 * cpu / (PER_SAMPLE * SCRAPE),
                    )
                )
                counted, delayed, cpu = polls, delay, 0.0
        return found


def main() -> None:
    """Write the picture."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    samples = Day().samples()
    names = (
        ("requests", "a second"),
        ("delay of a poll", "s"),
        ("unfinished operations", ""),
        ("followed operations", ""),
        ("memory", "MiB"),
        ("CPU of the tracker", "% of a core"),
    )
    started = sum(count for count, _ in STARTED.values())
    heading = Heading(
        f"A day with {started:,} operations of {len(STARTED)} environments",
        f"In virtual time; rate_limit {RATE_LIMIT:.0f} each, retention {RETENTION / HOUR:.0f} h, a nightly job each",
        "h",
    )
    hours = [(number + 1) * PER_SAMPLE * SCRAPE / HOUR for number in range(len(samples))]
    lines = [Line(*name, list(values)) for name, values in zip(names, zip(*samples, strict=True), strict=True)]
    PICTURE.write_text(draw(heading, hours, lines, []))


if __name__ == "__main__":
    main()
