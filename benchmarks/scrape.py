"""How fast a scrape is answered, against prometheus-client writing the same samples."""

from __future__ import annotations

import gzip
import time
from typing import TYPE_CHECKING

from common import Fleet, Result, fleet, median_seconds
from prometheus_client.parser import text_string_to_metric_families as parse

from exporter.metrics.compression import begin, end, join
from exporter.metrics.exposition import Format, knock_part, stale_part

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client import Metric

OURS = 7  # runs; ours are quick
BOUNDS = {"plain": ">= 40", "gzip, new view": ">= 7", "gzip, same view": ">= 40"}


class _Families:
    """A collector of families that are there already, so that only the encoding is measured."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


def measure(count: int) -> list[Result]:
    """Measure scrapes at `count` operations, all exposed; ratios are times of prometheus-client over ours."""
    live = fleet(count)
    text = b"".join(knock_part(live.view, Format.TEXT)) + stale_part(live.view, Format.TEXT, time.monotonic())
    families = _Families(parse(f"{text.decode()}{Format.TEXT.encode(live.activity.registry).decode()}"))
    return [result for form in Format for result in _measure_format(live, families, form, count)]


def _measure_format(fleet: Fleet, families: _Families, form: Format, count: int) -> Iterator[Result]:
    registry = fleet.activity.registry
    runs = 1 if count > 10_000 else 3  # noqa: PLR2004 - the largest fleet takes prometheus-client seconds a run

    def fresh() -> bytes:
        return stale_part(fleet.view, form, time.monotonic()) + form.encode(registry)

    def ours() -> list[bytes]:  # what the server joins and sends, one after the other
        return [*knock_part(fleet.view, form), fresh()]

    def ours_zipped() -> list[bytes]:
        return join(begin(knock_part(fleet.view, form)), end(fresh()))

    kept = begin(knock_part(fleet.view, form))
    body = b"".join(ours())

    def theirs() -> bytes:
        return form.encode(families)

    def theirs_zipped() -> bytes:
        return gzip.compress(theirs())  # as prometheus-client's own handlers do

    plain, zipped = median_seconds(theirs, runs), median_seconds(theirs_zipped, runs)
    pairs = {
        "plain": (plain, median_seconds(ours, OURS)),
        "gzip, new view": (zipped, median_seconds(ours_zipped, OURS)),
        "gzip, same view": (zipped, median_seconds(lambda: join(kept, end(fresh())), OURS)),
    }
    name = "OpenMetrics" if form is Format.OPENMETRICS else "text"
    for what, (reference, own) in pairs.items():
        bound = BOUNDS[what] if count == 10_000 else ""  # noqa: PLR2004 - where the promise was made
        detail = f"{own * 1000:.1f} ms against {reference * 1000:.0f} ms, {len(body) / 1e6:.1f} MB"
        yield Result(f"scrape of {count:,}, {name}, {what}", reference / own, "x faster", bound, detail)
