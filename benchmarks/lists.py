"""How long pages and lists take at 50,000 operations: the daemon as a process of its own, under load, cold readers."""

from __future__ import annotations

import math
import random
import statistics
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import TYPE_CHECKING

from common import RATE, Result
from polling import cpu_seconds, daemon, knock

if TYPE_CHECKING:
    from collections.abc import Callable

OPERATIONS, READERS, REQUESTS, EACH_SECONDS = 50_000, 10, 5, 8.0
LISTS = {  # what is asked for, in turns: paths and their bound in milliseconds
    "overview by status": (("/?status=pending", "/?status=processing&page=3", "/?status=failed"), "<= 50"),
    "API list by status": (("/api/v1/operations?status=processing", "/api/v1/operations?status=stale"), "<= 50"),
    "overview by text": (("/?id=ab", "/?id=a-4&status=processing"), "<= 150"),
}


def lists(until_quiet: Callable[[], None] = lambda: None) -> list[Result]:
    """Measure every request of ten readers, each at moments of its own, and what all of it costs the daemon.

    What else the machine does until it is quiet may go on until the daemon is past its start.
    """
    with knock(OPERATIONS) as (url, listed, process), daemon(url, listed, RATE) as (address, pid):
        time.sleep(15.0)  # past the start: thousands are read by then, and each answer changes an order
        until_quiet()
        first = _seconds(f"{address}/") * 1000
        results = [Result("first page of a process", first, "ms", "", "loads what makes pages")]
        results += [_measured(address, pid, what, *each) for what, each in LISTS.items()]
        process.communicate("\n")  # what it saw is not needed here, but it writes it
    return results


def _measured(address: str, pid: int, what: str, paths: tuple[str, ...], bound: str) -> Result:
    cpu, begin = cpu_seconds(pid), time.monotonic()
    with ThreadPoolExecutor(READERS) as readers:
        per_reader = list(readers.map(_read, range(READERS), repeat(address), repeat(paths)))
    cpu, took = cpu_seconds(pid) - cpu, time.monotonic() - begin
    times = [each for reader in per_reader for each in reader]
    detail = (
        f"median {statistics.median(times) * 1000:.0f} ms of {len(times)}; {100 * cpu / took:.0f}% of a core in all"
    )
    return Result(f"{what} at {OPERATIONS:,}, slowest", max(times) * 1000, "ms", bound, detail)


def _read(number: int, address: str, paths: tuple[str, ...]) -> list[float]:
    moments, times = random.Random(number), []
    for turn in range(REQUESTS):
        time.sleep(moments.uniform(0.0, 2 * EACH_SECONDS / REQUESTS))
        try:
            times.append(_seconds(address + paths[turn % len(paths)]))
        except OSError:  # 503, because too many wait, or no answer in a minute
            times.append(math.inf)
    return times


def _seconds(url: str) -> float:
    begin = time.perf_counter()
    with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 - our own address
        answer.read()
    return time.perf_counter() - begin
