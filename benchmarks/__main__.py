"""`make bench`: measures, and writes one table of ratios; `-o json` for programs. Exits 1 if a bound is not kept."""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor, wait
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING

import lists
import loading
import polling
import scrape
import state
import structlog
import tracking
from common import make_fleet, show

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from common import Result

PARTS: dict[str, Callable[[], list[Result]]] = {
    "memory": tracking.memory,
    "tracker": tracking.publishing,
    "scrape-1000": partial(scrape.measure, 1000),
    "scrape-10000": partial(scrape.measure, scrape.PROMISED),
    "scrape-growth": scrape.growth,
    "poll": polling.poll_cpu,
    "limit-50": partial(polling.limit_use, 50.0),
    "limit-200": partial(polling.limit_use, 200.0),
    "lists": lists.lists,
    "loading": loading.loading,
    "start": polling.start_up,
    "commit": state.commit,
    "restart-10000": partial(state.restart, 10_000),
    "restart-50000": partial(state.restart, 50_000),
    "intake": state.intake,
}
# Fleets are made in a second process, which measures with them too. It makes them, and counts bytes, next to parts that
# leave a core to it: those that wait, and a ratio within one process.
FLEETS = {
    "tracker": {tracking.LIVE},
    "scrape-10000": {scrape.PROMISED},
    "scrape-growth": {scrape.PROMISED, scrape.MORE},
}
SECOND = ("memory", "scrape-1000", *FLEETS)
NEXT_TO_IT = ("limit-50", "limit-200", "loading")


def measure(names: Sequence[str]) -> list[Result]:
    """Run these parts; return what they say, in the order of their names."""
    results: dict[str, list[Result]] = {}
    with ProcessPoolExecutor(1, get_context("fork")) as second:
        begun = {name: second.submit(PARTS[name]) for name in names if name == "memory"}
        sizes = set[int]().union(*(FLEETS.get(name, ()) for name in names))
        made = [second.submit(make_fleet, size) for size in sorted(sizes)]

        def until_quiet() -> None:
            wait((*begun.values(), *made))

        for name in sorted(names, key=lambda name: (name not in NEXT_TO_IT, name != "lists")):
            print(f"measuring {name} …", file=sys.stderr)  # noqa: T201 - progress, for a terminal
            if name in begun:
                results[name] = begun[name].result()
            elif name == "lists":
                results[name] = lists.lists(until_quiet)
            elif name in NEXT_TO_IT:
                results[name] = PARTS[name]()
            else:
                until_quiet()
                results[name] = second.submit(PARTS[name]).result() if name in SECOND else PARTS[name]()
    return [each for name in names for each in results[name]]


def main() -> int:
    """Run the parts that were asked for, all by default."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)}; all by default")
    asked = parser.parse_args()
    unknown = set(asked.parts) - PARTS.keys()
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))} (there are: {', '.join(PARTS)})")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    results = measure(asked.parts or list(PARTS))
    show(results, as_json=asked.output == "json")
    return 0 if all(each.good for each in results) else 1


sys.exit(main())
