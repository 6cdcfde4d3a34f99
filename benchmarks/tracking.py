"""What the tracker costs: publishing, and memory."""

from __future__ import annotations

import gc
import time
import tracemalloc

from common import RATE, Fleet, Result, fleet

from exporter.metrics.compression import begin
from exporter.metrics.exposition import Format, knock_part

LIVE, SECONDS = 50_000, 10.0


def publishing() -> list[Result]:
    """Measure the tracker at 50,000 operations and 200 answers a second: all its work, in CPU time."""
    live = fleet(LIVE)
    live.run(1.0)
    answers, start = live.answers, time.process_time()
    live.run(SECONDS)
    share = (time.process_time() - start) / SECONDS
    detail = f"{(live.answers - answers) / SECONDS:.0f} answers a second"
    return [
        Result(f"tracker at {LIVE:,} operations and {RATE:.0f} answers/s", share * 100, "% of a core", "<= 15", detail)
    ]


def memory() -> list[Result]:
    """Measure the memory that 10,000 live operations hold, all exposed, with the compressed answer that is kept."""
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    live = Fleet(10_000)
    kept = begin(knock_part(live.view, Format.TEXT))
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    detail = f"the compressed answer of {sum(map(len, kept.pieces)) / 1e6:.1f} MB included"
    return [Result("memory of a live operation", (after - before) / 10_000 / 1000, "KB", "<= 6", detail)]
