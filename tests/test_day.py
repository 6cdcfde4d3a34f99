"""The shortened day: as many operations a second as on the whole one, and figures read from real scrapes."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest
from day_figures import (
    BUSIEST,
    CUSTOMERS,
    HOUR,
    JOB,
    NAMES,
    OPERATIONS,
    Begin,
    Figures,
    Passed,
    Read,
    begins,
    compared,
    figures,
    picture,
    samples,
    table,
)

GOLDEN = Path(__file__).parent / "golden" / "lively.openmetrics.txt"
SHORTER = 60.0


def scraped(at: float, *, requests: float = 0.0, cpu: float = 0.0, series: str = "") -> Figures:
    unfinished = {BUSIEST: 7.0, "staging": 1.0}
    return Figures(at, requests, requests / 2, cpu, 3e8, unfinished, 90, None, frozenset(map(ord, series)), 0, 0)


def test_a_shortened_day_has_fewer_operations_but_as_many_a_second() -> None:
    day = begins(SHORTER, random.Random(1))
    assert day == sorted(day)
    assert len(day) == pytest.approx(OPERATIONS / SHORTER, abs=2 * len(CUSTOMERS))
    for name, customer in CUSTOMERS.items():
        first, last = (HOUR / SHORTER * each for each in (customer.hours.start, customer.hours.stop))
        job = [each.at for each in day if each[1:] == (name, JOB)]
        assert first == job[0] <= job[-1] < last
        assert len(job) / (last - first) == pytest.approx(customer.job / len(customer.hours) / HOUR, rel=0.01)


def test_a_scrape_is_read() -> None:
    text = GOLDEN.read_text().replace('"production"', '"staging"')
    read = figures(5.0, 2e9, gzip.compress(text.encode()))
    assert read.unfinished == {"production-eu": 0.0, "production-us": 0.0, "staging": 3.0}
    assert len(read.series) == sum(not each.startswith("#") for each in text.splitlines())
    assert (read.requests, read.followed, read.oldest) == (3594.0, 9, 2e8)
    assert read.delays == pytest.approx(1.787411 + 0.081051 + 0.050330, abs=1e-5)
    assert read.size == len(text.encode())


def test_samples_are_rates_and_series_are_new_once() -> None:
    begun = {"one": Begin(3.0, BUSIEST, JOB), "two": Begin(12.0, BUSIEST, JOB)}
    reads = {"one": [Read(104.0, None), Read(112.0, 6.0), Read(113.0, 8.0)], "two": [Read(119.0, None)]}
    scrapes = [
        scraped(100.0, series="a"),
        scraped(110.0, requests=20, cpu=1.0, series="abc"),
        scraped(120.0, requests=60, cpu=1.5, series="ad"),
    ]
    day = Passed(SHORTER, begun, reads, scrapes, 0)
    first, second = samples(day)
    assert (first.begun, first.requests, first.delay, first.new_series, first.cpu) == (0.1, 2.0, 0.5, 0.2, 10.0)
    assert first.late is None
    assert (second.begun, second.requests, second.late, second.new_series, second.cpu) == (0.1, 4.0, 7.0, 0.1, 5.0)
    assert (first.unfinished, first.memory) == (8.0, 300.0)
    assert day.apart(BUSIEST, 100.0, 120.0) == 4.5
    assert day.late(JOB) == [6.0, 8.0]


def test_a_day_is_compared_with_the_formulas() -> None:
    plan = {str(number): each for number, each in enumerate(begins(SHORTER, random.Random(1)))}
    reads = {
        key: [Read(100.0 + each.at + wait, late) for wait, late in ((14.0, None), (28.0, 6.0))]
        for key, each in plan.items()
    }
    scrapes = [scraped(100.0 + 15.0 * each, requests=20.0 * each**2, cpu=0.02 * each**2) for each in range(97)]
    day = Passed(SHORTER, plan, reads, scrapes, 0)
    rows = {what: (formula, measured) for what, formula, measured in compared(day)}
    expected = {
        "operations that begin": (OPERATIONS / SHORTER, len(plan)),
        "seconds between two polls of one of these": (13.5, 14.0),
        "the same for operations of no job, mean": (6.75, 6.0),
        "followed operations, at most": (101_952 + 8, 90),
        "ms of CPU of a poll, by linear regression": (2.9, 1.0),
    }
    for what, numbers in expected.items():
        assert rows[what] == pytest.approx(numbers), what
    assert len(list(table(day))) == 2 + len(rows)
    assert picture(day).count("highest:") == len(NAMES)
