"""How fast a scrape is answered, against prometheus-client writing the same samples."""

from __future__ import annotations

import gzip
import time
from typing import TYPE_CHECKING

from common import Fleet, Result, fleet, median_seconds
from prometheus_client.parser import text_string_to_metric_families as parse

from exporter.garbage_collection import no_garbage_collection
from exporter.metrics.compression import begin, end, join
from exporter.metrics.exposition import Format, knock_part, stale_part

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client import CollectorRegistry, Metric

OURS, THEIRS = 7, 1  # runs; theirs take seconds
BOUNDS = {"plain": ">= 40", "gzip, new view": ">= 20", "gzip, same view": ">= 40"}
PROMISED, MORE = 10_000, 50_000  # operations


class _Families:
    """A collector of families that are there already, so that only the encoding is measured."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


class _Scrape:
    """A scrape of a fleet in one format: what the server joins and sends."""

    def __init__(self, fleet: Fleet, form: Format) -> None:
        self._fleet, self._form = fleet, form

    def fresh(self) -> bytes:
        return stale_part(self._fleet.view, self._form, time.monotonic()) + self._form.encode(self.registry)

    def plain(self) -> list[bytes]:
        return [*knock_part(self._fleet.view, self._form), self.fresh()]

    def zipped(self) -> list[bytes]:
        return join(begin(knock_part(self._fleet.view, self._form)), end(self.fresh()))

    @property
    def registry(self) -> CollectorRegistry:
        return self._fleet.activity.registry


def measure(count: int) -> list[Result]:
    """Measure scrapes at `count` operations, all exposed; ratios are times of prometheus-client over ours."""
    live = fleet(count)
    text = b"".join(_Scrape(live, Format.TEXT).plain()).decode()
    with no_garbage_collection():
        families = _Families(parse(text))
    return [result for form in Format for result in _measure_format(live, families, form, count)]


def _measure_format(fleet: Fleet, families: _Families, form: Format, count: int) -> Iterator[Result]:
    ours = _Scrape(fleet, form)
    kept, body = begin(knock_part(fleet.view, form)), b"".join(ours.plain())
    plain = median_seconds(lambda: form.encode(families), THEIRS)
    zipped = plain + median_seconds(lambda: gzip.compress(body), THEIRS)  # as prometheus-client's own handlers do
    pairs = {
        "plain": (plain, median_seconds(ours.plain, OURS)),
        "gzip, new view": (zipped, median_seconds(ours.zipped, OURS)),
        "gzip, same view": (zipped, median_seconds(lambda: join(kept, end(ours.fresh())), OURS)),
    }
    name = "OpenMetrics" if form is Format.OPENMETRICS else "text"
    for what, (reference, own) in pairs.items():
        bound = BOUNDS[what] if count == PROMISED else ""
        detail = f"{own * 1000:.1f} ms against {reference * 1000:.0f} ms, {len(body) / 1e6:.1f} MB"
        yield Result(f"scrape of {count:,}, {name}, {what}", reference / own, "x faster", bound, detail)


def growth() -> list[Result]:
    """Measure scrapes of five times as many operations; prometheus-client would take a minute to read them."""
    few, many = _Scrape(fleet(PROMISED), Format.TEXT), _Scrape(fleet(MORE), Format.TEXT)
    pairs = {"plain": (few.plain, many.plain), "gzip, new view": (few.zipped, many.zipped)}
    results = []
    for what, (one, other) in pairs.items():
        seconds, more = median_seconds(one, OURS), median_seconds(other, OURS)
        detail = f"{more * 1000:.0f} ms against {seconds * 1000:.0f} ms"
        results.append(Result(f"scrape of {MORE:,} against {PROMISED:,}, {what}", more / seconds, "times", "", detail))
    return results
