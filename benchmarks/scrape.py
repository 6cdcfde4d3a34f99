"""How fast a scrape is answered, against prometheus-client writing the same samples."""

from __future__ import annotations

import gzip
import time
from typing import TYPE_CHECKING

from common import Fleet, Result, median_seconds
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.metrics.exposition import Format, knock_part, stale_part
from exporter.web.scrapes import begin, end, join

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client import Metric

BOUNDS = {"plain": ">= 40", "gzip, new view": ">= 7", "gzip, same view": ">= 40"}


class _Families:
    """A collector of families that are there already, so that only the encoding is measured."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


def measure(count: int) -> list[Result]:
    """Measure scrapes at `count` operations, all exposed; ratios are times of prometheus-client over ours."""
    fleet = Fleet(count)
    runs = 3 if count > 10_000 else 7  # noqa: PLR2004 - the largest fleet takes seconds a run
    return [result for form in Format for result in _measure_format(fleet, form, count, runs)]


def _measure_format(fleet: Fleet, form: Format, count: int, runs: int) -> Iterator[Result]:
    registry = fleet.activity.registry

    def fresh() -> bytes:
        return stale_part(fleet.view, form, time.monotonic()) + form.encode(registry)

    def ours() -> list[bytes]:  # what the server joins and sends, one after the other
        return [*knock_part(fleet.view, form), fresh()]

    def ours_zipped() -> list[bytes]:
        return join(begin(knock_part(fleet.view, form)), end(fresh()))

    kept = begin(knock_part(fleet.view, form))
    body = b"".join(ours())
    parse = parse_openmetrics if form is Format.OPENMETRICS else parse_text
    families = _Families(parse(body.decode()))

    def theirs() -> bytes:
        return form.encode(families)

    def theirs_zipped() -> bytes:
        return gzip.compress(theirs())  # as prometheus-client's own handlers do

    plain, zipped = median_seconds(theirs, runs), median_seconds(theirs_zipped, runs)
    pairs = {
        "plain": (plain, median_seconds(ours, runs)),
        "gzip, new view": (zipped, median_seconds(ours_zipped, runs)),
        "gzip, same view": (zipped, median_seconds(lambda: join(kept, end(fresh())), runs)),
    }
    name = "OpenMetrics" if form is Format.OPENMETRICS else "text"
    for what, (reference, own) in pairs.items():
        bound = BOUNDS[what] if count == 10_000 else ""  # noqa: PLR2004 - where the promise was made
        detail = f"{own * 1000:.1f} ms against {reference * 1000:.0f} ms, {len(body) / 1e6:.1f} MB"
        yield Result(f"scrape of {count:,}, {name}, {what}", reference / own, "x faster", bound, detail)
