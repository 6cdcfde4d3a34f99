"""A day of a very large customer: what begins when, what scrapes say, and what docs/scaling.md calculates. Pure."""

from __future__ import annotations

import gzip
from bisect import bisect_right
from itertools import pairwise
from statistics import fmean, linear_regression
from typing import TYPE_CHECKING, NamedTuple

from line_charts import Heading, Line, draw
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    import random
    from collections.abc import Collection, Iterator, Mapping, Sequence

HOUR, DAY, HOURS_SHOWN = 3600.0, 86400.0, 3
MEGA, EXACT = 1e6, 100
STREAM, JOB = "stream", "nightly"
OLDEST = "knock_bulk_operations_oldest_active_last_success_timestamp_seconds"
UNFINISHED = ("pending", "queued", "processing")
RATE_LIMIT, EXPOSED, RETIRED = 20.0, 1000, 1_000_000  # by default; the last two: with series, and tombstones, at most
USED, INTERVAL = 0.985, 13.5  # of the limit; seconds between two polls at least, on average


class Customer(NamedTuple):
    """What an environment begins in a day: evenly over the day, and in the hours of its job."""

    stream: int
    job: int
    hours: range

    @property
    def total(self) -> int:
        """All of them."""
        return self.stream + self.job


CUSTOMERS = {
    "production-eu": Customer(10_000, 50_000, range(1, 3)),
    "production-us": Customer(7_400, 14_000, range(6, 7)),
    "staging": Customer(1_000, 4_000, range(9, 10)),
}
OPERATIONS = sum(each.total for each in CUSTOMERS.values())
ERRORS, FAILS, LONGER = 0.02, 0.01, 7  # shares of the operations, which are kept so many times as long
FOLLOWED = OPERATIONS * (1 + (LONGER - 1) * (ERRORS + FAILS))  # ended ones
BUSIEST = "production-eu"


class Begin(NamedTuple):
    """An operation that begins, so many seconds after the start of the shortened day."""

    at: float
    environment: str
    group: str


def begins(shorter: float, chance: random.Random) -> list[Begin]:
    """Return what begins on a shortened day, in order: a job at even distances, the rest at random moments."""
    found = []
    for name, customer in CUSTOMERS.items():
        first, seconds = customer.hours.start * HOUR / shorter, len(customer.hours) * HOUR / shorter
        stream, job = round(customer.stream / shorter), round(customer.job / shorter)
        found += [Begin(chance.uniform(0, DAY / shorter), name, STREAM) for _ in range(stream)]
        found += [Begin(first + number * seconds / job, name, JOB) for number in range(job)]
    return sorted(found)


class Figures(NamedTuple):
    """What a scrape says, of all environments."""

    at: float
    requests: float
    delays: float
    cpu: float
    memory: float  # bytes
    unfinished: dict[str, float]  # by environment
    followed: int
    oldest: float | None  # seconds since the oldest answer that is shown of an operation that runs
    series: frozenset[int]  # their hashes
    size: int  # bytes, plain
    zipped: int


def figures(at: float, wall: float, body: bytes) -> Figures:
    """Read a scrape, compressed as it came."""
    plain = gzip.decompress(body)
    lines = [each for each in plain.decode().splitlines() if not each.startswith("#")]
    sums = "\n".join([*(each for each in lines if "operation_id=" not in each), ""])
    values = [each for family in text_string_to_metric_families(sums) for each in family.samples]

    def total(name: str) -> float:
        return sum(each.value for each in values if each.name == name)

    oldest = [each.value for each in values if each.name == OLDEST]
    unfinished = dict.fromkeys(CUSTOMERS, 0.0)
    for each in values:
        if each.name == "knock_bulk_operations" and each.labels["status"] in UNFINISHED:
            unfinished[each.labels["knock_environment"]] += each.value
    return Figures(
        at,
        total("knock_exporter_polls_total"),
        total("knock_exporter_poll_delay_seconds_sum"),
        total("process_cpu_seconds_total"),
        total("process_resident_memory_bytes"),
        unfinished,
        int(total("knock_exporter_operations")),
        wall - min(oldest) if oldest else None,
        frozenset(hash(each.rpartition(" ")[0]) for each in lines),
        len(plain),
        len(body),
    )


class Read(NamedTuple):
    """Knock was asked for an operation; `late`: so many seconds after its end, None if it had not ended."""

    at: float
    late: float | None


class Passed(NamedTuple):
    """A day that has passed: what began, when Knock was asked for it, and what was scraped."""

    shorter: float
    begun: Mapping[str, Begin]  # by id
    reads: Mapping[str, Sequence[Read]]
    scraped: Sequence[Figures]
    state: int  # bytes on disk

    def at(self, hour: float) -> float:
        """Return the moment of an hour."""
        return self.scraped[0].at + hour * HOUR / self.shorter

    def late(self, group: str, environments: Collection[str] = tuple(CUSTOMERS)) -> list[float]:
        """Return how long after their ends those of a group were read, all that ended."""
        of = {key for key, begin in self.begun.items() if begin.group == group and begin.environment in environments}
        reads = [read.late for key, reads in self.reads.items() if key in of for read in reads]
        return sorted(late for late in reads if late is not None)

    def apart(self, environment: str, first: float, last: float) -> float:
        """Return the mean seconds between two polls of an operation of an environment, between two moments."""
        reads = [reads for key, reads in self.reads.items() if self.begun[key].environment == environment]
        return fmean(b.at - a.at for each in reads for a, b in pairwise(each) if first <= a.at < last)


class Sample(NamedTuple):
    """The exporter between two scrapes."""

    begun: float  # a second
    requests: float  # a second
    unfinished: float
    delay: float  # seconds from when a poll was due, on average
    oldest: float | None
    late: float | None  # seconds from the end of an operation until it was read, on average
    new_series: float  # a second
    cpu: float  # % of a core
    memory: float  # MB


NAMES = (
    ("operations begun", "a second"),
    ("requests to Knock", "a second"),
    ("unfinished operations", ""),
    ("delay of a poll", "s"),
    ("age of the oldest answer", "s"),
    ("end is known after", "s"),
    ("new series", "a second"),
    ("CPU", "% of a core"),
    ("memory", "MB"),
)


def samples(day: Passed) -> Iterator[Sample]:
    """Make a sample of each two scrapes."""
    begun = [day.at(0) + each.at for each in day.begun.values()]
    ends = sorted((each.at, each.late) for reads in day.reads.values() for each in reads if each.late is not None)
    read = [at for at, _ in ends]
    for (before, after), new_series in zip(pairwise(day.scraped), _new_series(day), strict=True):
        seconds, polls = after.at - before.at, after.requests - before.requests
        late = [late for _, late in ends[bisect_right(read, before.at) : bisect_right(read, after.at)]]
        yield Sample(
            (bisect_right(begun, after.at) - bisect_right(begun, before.at)) / seconds,
            polls / seconds,
            sum(after.unfinished.values()),
            (after.delays - before.delays) / max(1.0, polls),
            after.oldest,
            fmean(late) if late else None,
            len(new_series) / seconds,
            100 * (after.cpu - before.cpu) / seconds,
            after.memory / MEGA,
        )


def picture(day: Passed) -> str:
    """Draw the samples, with the hours of the day below."""
    heading = Heading(
        f"A day with {OPERATIONS:,} operations of {len(CUSTOMERS)} environments",
        f"An hour is shortened to {HOUR / day.shorter:.0f} s. As many operations begin a second as on the whole day.",
        "h",
        HOURS_SHOWN,
    )
    sampled = list(samples(day))
    hours = [(each.at - day.at(0)) * day.shorter / HOUR for each in day.scraped[1:]]
    lines = [Line(*name, values) for name, values in zip(NAMES, zip(*sampled, strict=True), strict=True)]
    return draw(heading, hours, lines, [])


# What docs/scaling.md calculates; in MB where it says so.


def between(unfinished: float, new: float) -> float:
    """Return the seconds between two polls of a running operation, while so many a second are polled first."""
    most = USED * RATE_LIMIT
    return max(INTERVAL, unfinished / max(most - new, most * 4 / 9))


def series(unfinished: float, finished: float) -> float:
    """Return the series of these with series."""
    return 46 + 78 * len(CUSTOMERS) + 95 * 2 * len(CUSTOMERS) + 17 * unfinished + 19 * finished


def scrape_mb(unfinished: float, finished: float) -> float:
    """Return the MB of a scrape of these with series."""
    return (17 + 7 * len(CUSTOMERS) + 2.6 * unfinished + 2.9 * finished) / 1000


def memory_mb(exposed: int, other: int, retired: int) -> float:
    """Return the MB in memory."""
    return 1.5 * (62 + (5.5 * exposed + 1.7 * other + 0.027 * retired) / 1000)


def state_mb(followed: int, retired: int) -> float:
    """Return the MB of the state file."""
    return 4 + (1.1 * followed + 0.044 * retired) / 1000


def table(day: Passed) -> Iterator[str]:
    """Write what formulas say next to what was measured, as it stands in docs/scaling.md."""
    yield from ("| figure | by the formula | measured |", "| --- | --- | --- |")
    for what, *numbers in compared(day):
        formula, measured = ("" if each is None else f"{each:,.{0 if each >= EXACT else 1}f}" for each in numbers)
        yield f"| {what} | {formula} | {measured} |"


def compared(day: Passed) -> list[tuple[str, float | None, float]]:
    """Return figures: what each is, what its formula says, and what was measured."""
    customer, sampled = CUSTOMERS[BUSIEST], list(samples(day))
    half, end = day.at(fmean((customer.hours.start, customer.hours.stop))), day.at(customer.hours.stop)
    busy = fmean(each.unfinished[BUSIEST] for each in day.scraped if half <= each.at <= end)
    new = customer.job / len(customer.hours) / HOUR
    last = max(reads[-1].at for key, reads in day.reads.items() if day.begun[key][1:] == (BUSIEST, JOB))
    full = max(day.scraped, key=lambda each: sum(each.unfinished.values()))
    unfinished, exposed = sum(full.unfinished.values()), EXPOSED * len(CUSTOMERS)
    followed = max(each.followed for each in day.scraped)
    new_series = sum(len(new) for new in _new_series(day))
    per_poll, base = linear_regression([each.requests for each in sampled], [each.cpu for each in sampled])
    jobs, rest = day.late(JOB, [BUSIEST]), day.late(STREAM)
    return [
        ("operations that begin", OPERATIONS / day.shorter, len(day.begun)),
        ("requests to Knock", None, day.scraped[-1].requests - day.scraped[0].requests),
        ("requests a second, at most", None, max(each.requests for each in sampled)),
        ("unfinished operations, at most", None, unfinished),
        (f"unfinished operations of `{BUSIEST}` in the second half of its job", None, busy),
        ("seconds between two polls of one of these", between(busy, new), day.apart(BUSIEST, half, end)),
        ("the same in the afternoon", INTERVAL, day.apart(BUSIEST, day.at(12), day.at(24))),
        ("seconds from an end until it is known, in this job, mean", None, fmean(jobs)),
        ("the same, the slowest", None, jobs[-1]),
        ("seconds from the last begin of this job until all its ends are known", None, last - end),
        ("the same for operations of no job, mean", INTERVAL / 2, fmean(rest)),
        ("the same for operations of no job, the slowest", None, rest[-1]),
        ("seconds of delay of a poll, highest mean of 15 s", None, max(each.delay for each in sampled)),
        ("seconds since the oldest answer, at most", None, max(each.oldest or 0.0 for each in sampled)),
        ("series", series(unfinished, exposed - unfinished), len(full.series)),
        ("MB of a scrape", scrape_mb(unfinished, exposed - unfinished), full.size / MEGA),
        ("MB of a scrape with gzip", 0.4 * exposed / 1000, full.zipped / MEGA),
        ("new series of an operation", 19, new_series / len(day.begun)),
        ("followed operations, at most", FOLLOWED + unfinished, followed),
        (
            "MB of memory, at most",
            memory_mb(exposed, followed - exposed, RETIRED),
            max(each.memory for each in sampled),
        ),
        ("MB of state", state_mb(followed, RETIRED), day.state / MEGA),
        ("% of a core, mean of the day", None, fmean(each.cpu for each in sampled)),
        ("% of a core, at most", None, max(each.cpu for each in sampled)),
        ("% of a core without polls, by linear regression", None, base),
        ("ms of CPU of a poll, by linear regression", 2.9, 10 * per_poll),
    ]


def _new_series(day: Passed) -> Iterator[frozenset[int]]:
    seen = day.scraped[0].series
    for each in day.scraped[1:]:
        yield each.series - seen
        seen |= each.series
