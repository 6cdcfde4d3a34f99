"""What the queries of panels cost at 10,000 operations: samples that Prometheus reads, series that it returns.

Both grow in proportion, so that two small numbers of operations tell what a large one costs.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import promql
import pytest
import stack as stacks
from model import WALL, Model, environment, ids
from programs import WEB, run, tool, until
from promtool import MONITORING

from exporter.config import Config, ListedOperation, Polling
from exporter.errors import NotFound
from exporter.metrics.exposition import Format
from exporter.operation import NIL_ID, Operation, Status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from exporter.errors import KnockError
    from exporter.tracking.messages import PollRequest
    from exporter.tracking.transitions import Moment

pytestmark = pytest.mark.e2e

OPERATIONS, MEASURED, GROUPS, NAMES = 10_000, (500, 1000), 100, ("users.identify", "objects.projects.set")
MINUTES, SCRAPE_SECONDS, STEP_SECONDS = 30, 60.0, 15
MOST_SERIES = 100  # that a panel may show
MOST_SAMPLES = 3_000_000  # that one may read; Prometheus' own bound for what is in memory is 50,000,000


class Cost(NamedTuple):
    """Of a query: what it read, what it returned, how long it took (milliseconds, of this machine)."""

    query: promql.Query
    samples: int
    series: int
    milliseconds: float


def fleet(operations: int) -> Model:
    """Begin all at once: of five in each group, one fails, one has errors, one runs for longer than is looked at."""
    known = ids(operations)
    kinds = {each: place // GROUPS % 5 for place, each in enumerate(known)}

    def knock(request: PollRequest, now: Moment) -> Operation | KnockError:
        if request.id == NIL_ID:
            return NotFound("404", code=404, accepted_key=True)
        number, kind, age = int(request.id[:8], 16), kinds[request.id], now.wall - WALL
        rows = 1000 + number % 1000
        done = min(rows, int(rows * age / (600 + number % 900 + 3000 * (kind == 4))))
        errors = done // 20 if kind == 1 else 0
        shown = Operation(
            *(request.id, Status.PROCESSING, NAMES[kind % 2], done, rows, done - errors, errors),
            inserted_at=WALL - number % 600,
            started_at=WALL + 1.0,
        )
        if done < rows:
            return shown
        if kind == 0:
            return replace(shown, status=Status.FAILED, failed_at=now.wall)
        return replace(shown, status=Status.COMPLETED, completed_at=now.wall)

    listed = [ListedOperation(each, group=f"group-{place % GROUPS}") for place, each in enumerate(known)]
    polling = Polling(processing=120.0, queued=120.0, slowest=300.0)
    made = replace(environment(polling=polling, rate_limit=200.0), operations=tuple(listed))
    return Model(Config((made,)), knock)


def runs(opened: float, number: int) -> Iterator[str]:
    """Show a run in every group, some operations further with each scrape."""
    counts = dict.fromkeys(("pending", "queued", "unknown", "lost"), 0) | {"processing": 9, "failed": 1}
    for place in range(GROUPS):
        labels = f'knock_environment="production",group="group-{place}"'
        facts = {
            "last_run_timestamp_seconds": opened,
            "expected_interval_seconds": 90000,
            "run_opened_timestamp_seconds": opened,
            "run_deadline_timestamp_seconds": opened + 900,
            "run_closed_timestamp_seconds": opened,
            "run_expected_operations": 1000,
            "run_rows_processed": 1000 * number,
            "run_rows_estimated": 10**6,
            "run_errors": place,
        }
        yield from (f"knock_group_{name}{{{labels}}} {value}" for name, value in facts.items())
        for status, count in {**counts, "completed": number * place // 10}.items():
            yield f'knock_group_run_operations{{{labels},status="{status}"}} {count}'


def written(model: Model, end: float, file: Path) -> None:
    """Write half an hour of scrapes as promtool reads them, so that the last one was at `end`, Unix seconds."""
    count = int(MINUTES * 60 / SCRAPE_SECONDS)
    with file.open("w") as stream:
        for number in range(count):
            model.run(SCRAPE_SECONDS)
            at = end - (count - 1 - number) * SCRAPE_SECONDS
            for line in model.metrics(Format.OPENMETRICS).splitlines():
                if not line.startswith("#"):
                    stream.write(f"{line} {at:.3f}\n")
            stream.writelines(f"{line} {at:.3f}\n" for line in runs(end - MINUTES * 60, number))
        stream.write("# EOF\n")


@contextlib.contextmanager
def prometheus(folder: Path, operations: int) -> Iterator[str]:
    """Prometheus with half an hour of so many operations, and our rules over it; its URL."""
    folder.mkdir()
    end = time.time()
    written(fleet(operations), end, folder / "scrapes.txt")
    run(tool("promtool"), "tsdb", "create-blocks-from", "openmetrics", folder / "scrapes.txt", folder / "tsdb")
    shutil.copytree(MONITORING / "rules", folder / "rules")
    config = {"global": {"evaluation_interval": "5s"}, "rule_files": [str(folder / "rules" / "*.yaml")]}
    with stacks.prometheus(folder, config) as url:
        until(lambda: _evaluated(url), "rules evaluated", 60)
        yield url


def _evaluated(url: str) -> bool:
    groups = WEB.get(f"{url}/api/v1/rules", timeout=30).json()["data"]["groups"]
    return bool(groups) and all(rule["evaluationTime"] > 0 for group in groups for rule in group["rules"])


def cost(url: str, query: promql.Query, end: float) -> Cost:
    asked: dict[str, Any] = {"query": query.filled(__range="30m", __rate_interval="4m"), "stats": "all"}
    if query.instant:
        answer = WEB.get(f"{url}/api/v1/query", params=asked | {"time": end}, timeout=60).json()
    else:
        span = {"start": end - MINUTES * 60, "end": end, "step": STEP_SECONDS}
        answer = WEB.get(f"{url}/api/v1/query_range", params=asked | span, timeout=60).json()
    assert answer["status"] == "success", (query, answer)
    stats = answer["data"]["stats"]
    seconds = stats["timings"]["execTotalTime"]
    return Cost(query, stats["samples"]["totalQueryableSamples"], len(answer["data"]["result"]), seconds * 1000)


def costs_of(folder: Path, operations: int) -> list[Cost]:
    with prometheus(folder, operations) as url:
        end = time.time()
        return [cost(url, query, end) for query in [*promql.of_dashboards(), *promql.of_runbooks()]]


def at_most_operations(few: Cost, many: Cost) -> Cost:
    """Return what a query costs at OPERATIONS, by what it costs at each of MEASURED."""
    times = (OPERATIONS - MEASURED[0]) / (MEASURED[1] - MEASURED[0])

    def grown(first: float, second: float) -> float:
        return max(second, first + (second - first) * times)

    samples, series = round(grown(few.samples, many.samples)), round(grown(few.series, many.series))
    return Cost(few.query, samples, series, grown(few.milliseconds, many.milliseconds))


def test_no_query_reads_or_returns_too_much(tmp_path: Path, record_property: Any) -> None:
    few, many = (costs_of(tmp_path / f"{operations}", operations) for operations in MEASURED)
    costs = [at_most_operations(*pair) for pair in zip(few, many, strict=True)]
    for each in sorted(costs, key=lambda each: -each.samples)[:10]:
        record_property(f"{each.query.file} {each.query.title}", each[1:])
    assert max(each.series for each in costs if each.query.file.endswith(".json")) <= MOST_SERIES
    assert max(each.series for each in costs) <= 4 * GROUPS  # a runbook asks about every group, never every operation
    assert max(each.samples for each in costs) <= MOST_SAMPLES
