"""What the tracker costs: publishing, and memory."""

from __future__ import annotations

import gc
import time
import tracemalloc

from common import Fleet, Result

from exporter.metrics.exposition import Format, knock_part
from exporter.web.scrapes import begin

LIVE, RATE, SECONDS = 50_000, 200.0, 10.0


def publishing() -> list[Result]:
    """Measure the tracker at 50,000 operations and 200 answers a second: all its work, in CPU time."""
    fleet = Fleet(LIVE, RATE)
    fleet.run(1.0)
    answers, start = fleet.answers, time.process_time()
    fleet.run(SECONDS)
    share = (time.process_time() - start) / SECONDS
    detail = f"{(fleet.answers - answers) / SECONDS:.0f} answers and 10 views a second"
    return [
        Result(f"tracker at {LIVE:,} operations and {RATE:.0f} answers/s", share * 100, "% of a core", "<= 15", detail)
    ]


def memory() -> list[Result]:
    """Measure the memory that 10,000 live operations hold, all exposed, with the compressed answer that is kept."""
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    fleet = Fleet(10_000)
    kept = begin(knock_part(fleet.view, Format.TEXT))
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    detail = f"the compressed answer of {sum(map(len, kept.pieces)) / 1e6:.1f} MB included"
    return [Result("memory of a live operation", (after - before) / 10_000 / 1000, "KB", "<= 6", detail)]
