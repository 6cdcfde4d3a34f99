"""Promised seconds: exactly where a test runs alone, with room for a busy machine elsewhere; and what costs in CPU."""

from __future__ import annotations

import contextlib
import resource
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BUSY_SECONDS = 30.0  # that other tests may hold one up; a fault has to show by more
PAIRS = 10  # of measurements, until one is good
LATE_SECONDS = 1.0  # a server notes some requests late and those after them in time, so that its seconds hold more


class InTime:
    """`with in_time(5.0): …` fails where it takes longer; the fixture of this name knows if the test runs alone."""

    def __init__(self, *, alone: bool) -> None:
        self._busy = 0.0 if alone else BUSY_SECONDS

    @contextlib.contextmanager
    def __call__(self, seconds: float, at_least: float = 0.0) -> Iterator[None]:
        """Fail where what stands in it takes less than `at_least`, or more than `seconds` and what is allowed here."""
        began = time.monotonic()
        yield
        took = time.monotonic() - began
        assert at_least <= took < seconds + self._busy, f"took {took:.3f} s"


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return how many seconds of CPU this takes."""
    began = time.process_time()
    work()
    return time.process_time() - began


def cpu_seconds_of_children(work: Callable[[], object]) -> float:
    """Return how many seconds of CPU the programs took that this begins and waits for."""
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime


def check_cost(
    work: Callable[[], object],
    times: float,
    other: Callable[[], object],
    measure: Callable[[Callable[[], object]], float] = cpu_seconds,
) -> list[float]:
    """Fail where `work` takes more than so many times the CPU of `other`; return the ratios.

    Neighbours and the clock of a processor change such a ratio by a third from one moment to the next. So each is
    measured right after the other, and one good pair is enough: what costs too much costs it each time.
    """
    ratios: list[float] = []
    while not ratios or ratios[-1] > times:
        assert len(ratios) < PAIRS, f"took {', '.join(f'{each:.2f}' for each in ratios)} times as much CPU"
        needed = measure(other)
        ratios.append(measure(work) / needed)
    return ratios


def most_in(seconds: float, times: list[float]) -> int:
    """Return how many of these times, in order, lie within so many seconds at most."""
    most, first = 0, 0
    for last, at in enumerate(times):
        while at - times[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most
