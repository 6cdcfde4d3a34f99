"""What the tracker costs: publishing, and memory."""

from __future__ import annotations

import gc
import time
import tracemalloc
from typing import TYPE_CHECKING

from common import RATE, Fleet, Result, finished, fleet

from exporter.metrics.compression import begin
from exporter.metrics.exposition import Format, knock_part

if TYPE_CHECKING:
    from collections.abc import Callable

LIVE, SECONDS = 50_000, 10.0
OPERATIONS = 10_000  # whose memory is measured


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
    """Measure the memory that an operation holds, of 10,000; with series, the compressed answer that is kept too."""
    return [
        _memory("a live operation", "<= 6", Fleet),
        _memory("a finished operation with series", "<= 5.8", lambda count: Fleet(count, record=finished)),
        _memory("a finished operation without series", "<= 1.7", lambda count: Fleet(count, record=finished, series=0)),
    ]


def _memory(what: str, bound: str, make: Callable[[int], Fleet]) -> Result:
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    made = make(OPERATIONS)
    kept = begin(knock_part(made.view, Format.TEXT))
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    detail = f"the compressed answer of {sum(map(len, kept.pieces)) / 1e6:.1f} MB included"
    return Result(f"memory of {what}", (after - before) / OPERATIONS / 1000, "KB", bound, detail)
