"""`make bench`: measures, and writes one table of ratios; `-o json` for programs. Exits 1 if a bound is not kept."""

from __future__ import annotations

import argparse
import sys

import lists
import loading
import polling
import scrape
import state
import structlog
import tracking
from common import show

PARTS = {
    "memory": tracking.memory,
    "tracker": tracking.publishing,
    "scrape-1000": lambda: scrape.measure(1000),
    "scrape-10000": lambda: scrape.measure(10_000),
    "scrape-growth": scrape.growth,
    "poll": polling.poll_cpu,
    "limit-50": lambda: polling.limit_use(50.0),
    "limit-200": lambda: polling.limit_use(200.0),
    "lists": lists.lists,
    "loading": loading.loading,
    "start": polling.start_up,
    "commit": state.commit,
    "restart-10000": lambda: state.restart(10_000),
    "restart-50000": lambda: state.restart(50_000),
    "intake": state.intake,
}


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
    results = []
    for name in asked.parts or PARTS:
        print(f"measuring {name} …", file=sys.stderr)  # noqa: T201 - progress, for a terminal
        results += PARTS[name]()
    show(results, as_json=asked.output == "json")
    return 0 if all(each.good for each in results) else 1


sys.exit(main())
