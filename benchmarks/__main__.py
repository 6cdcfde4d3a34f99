"""`make bench`: measures, and writes one table of ratios; `-o json` for programs. Exits 1 if a bound is not kept."""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING

import lists
import loading
import polling
import scaling
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
    "two-limits-200": partial(polling.two_limits, 200.0),
    "lists": lists.lists,
    "loading": loading.loading,
    "start": polling.start_up,
    "commit": state.commit,
    "restart-10000": partial(state.restart, 10_000),
    "restart-50000": partial(state.restart, 50_000),
    "intake": state.intake,
    "freshness": scaling.freshness,
    "series": scaling.exposed,
    "tombstone": scaling.tombstone,
}
ON_DEMAND = ("two-limits-200", "freshness", "series", "tombstone")  # of docs/scaling.md: they have no bounds
# Made in a second process, which measures with them too.
FLEETS = {
    "tracker": {tracking.LIVE},
    "scrape-10000": {scrape.PROMISED},
    "scrape-growth": {scrape.PROMISED, scrape.MORE},
}
SECOND = ("scrape-1000", *FLEETS)
FORK = get_context("fork")


def measure(names: Sequence[str]) -> list[Result]:
    """Run these parts; return what they say, in the order of their names.

    Bytes are counted at the lowest priority next to what leaves a core to that: the limits, which wait for the most
    part, a ratio within one process, and the daemon of the lists while it starts. Fleets are made next to those two.
    """
    results: dict[str, list[Result]] = {}

    def run(name: str, part: Callable[[], list[Result]]) -> None:
        print(f"measuring {name} …", file=sys.stderr)  # noqa: T201 - progress, for a terminal
        results[name] = part()

    with ProcessPoolExecutor(1, FORK, os.nice, (19,)) as counting, ProcessPoolExecutor(1, FORK) as second:
        memory = counting.submit(PARTS["memory"]) if "memory" in names else None
        for name in [each for each in names if each.startswith("limit-")]:
            run(name, PARTS[name])
        made = second.map(make_fleet, sorted(set[int]().union(*(FLEETS.get(name, ()) for name in names))))
        if "loading" in names:
            run("loading", PARTS["loading"])

        def until_quiet() -> None:
            list(made)
            if memory is not None:
                run("memory", memory.result)

        if "lists" in names:
            run("lists", partial(lists.lists, until_quiet))
        else:
            until_quiet()
        for name in [each for each in names if each not in results]:
            run(name, second.submit(PARTS[name]).result if name in SECOND else PARTS[name])
    return [each for name in names for each in results[name]]


def main() -> int:
    """Run the parts that were asked for, by default all but those of ON_DEMAND."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)}; by default all but {', '.join(ON_DEMAND)}"
    )
    asked = parser.parse_args()
    unknown = set(asked.parts) - PARTS.keys()
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))} (there are: {', '.join(PARTS)})")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    results = measure(asked.parts or [each for each in PARTS if each not in ON_DEMAND])
    show(results, as_json=asked.output == "json")
    return 0 if all(each.good for each in results) else 1


sys.exit(main())
