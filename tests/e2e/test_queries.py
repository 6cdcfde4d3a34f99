"""Every query of the dashboards and records runs against a real Prometheus, in all modes."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import promql
import pytest
import stack as stacks
from programs import WEB, Starter, free_port, run, tool, until

from exporter.config import PerOperation
from exporter.simulator import Simulator, World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stack import Stack

pytestmark = pytest.mark.e2e

MODES = get_args(PerOperation)
POLLING = {"processing": "500ms", "queued": "500ms", "slowest": "5s"}
# What finds nothing with `per_operation: none`, since operations have no series of their own then.
OF_OPERATIONS = (
    *(("overview.json", "Unfinished operations"), ("overview.json", "Failed, or with errors")),
    ("recording.yaml", "operation:"),
)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Three exporters, one a mode, each with operations in every state, for so long that rates are known."""
    folder = tmp_path_factory.mktemp("queries")
    with contextlib.ExitStack() as ends:
        targets = []
        for mode in MODES:
            knock = ends.enter_context(Simulator(world=World(seed=1), rate_limits=False))
            targets.append(_exporter(folder / mode, mode, knock, ends))
        running = ends.enter_context(stacks.running(folder, targets, line=3))
        until(lambda: len(running.query("group:knock_bulk_operations_time_left:seconds > 0")) == len(MODES), "seen", 60)
        yield running


def _exporter(folder: Path, mode: str, knock: Simulator, ends: contextlib.ExitStack) -> str:
    """Start one; return where it listens."""
    folder.mkdir()
    starter = Starter(folder)
    ends.callback(starter.end)
    starter.keep_state()
    starter.use_token()
    make = knock.world.create
    operations = [
        make(rows=10**6, queue_seconds=2.0, rows_per_second=50.0, errors=10**5),
        make(rows=10, queue_seconds=1e6),
    ]
    # Some finish in every minute, so Prometheus sees it however late a busy machine lets it begin.
    for seconds in range(20, 20 * 60, 20):
        operations += [
            make(rows=10, queue_seconds=seconds, rows_per_second=20.0, fails=True),
            make(rows=10, queue_seconds=seconds, rows_per_second=20.0, errors=4),
        ]
    listed = [{"id": each, "group": "migration", "run": "1"} for each in operations]
    whole = starter.configure(knock.url, listed, per_operation=mode, polling=POLLING, name=f"mode-{mode}")
    exporter = starter.run(f"--config.file={whole}", f"--web.listen-address=127.0.0.1:{free_port()}")
    exporter.put_run("migration", "1", f"mode-{mode}", operations=1000, deadline="3h")
    return exporter.url.removeprefix("http://")


def _excused(mode: str, query: promql.Query) -> bool:
    return mode == "none" and any(query.file == file and query.title.startswith(start) for file, start in OF_OPERATIONS)


def of_mode(query: promql.Query, mode: str) -> str:
    """Return a query for one exporter: Grafana's variables choose it."""
    return query.filled(environment=f"mode-{mode}", __rate_interval="10s", __range="1m")


def known(answer: list[dict[str, Any]]) -> bool:
    """Return whether it says more than NaN, which stands for what is not known."""
    return any(each["value"][1] != "NaN" for each in answer)


def check(stack: Stack, mode: str, queries: dict[promql.Query, str]) -> None:
    """Wait until each query has been answered that should be, and see that no other is."""
    left = {query: text for query, text in queries.items() if not _excused(mode, query)}

    def all_answered() -> bool:
        for query in [query for query, text in left.items() if known(stack.query(text))]:
            del left[query]
        return not left

    until(all_answered, lambda: "\n".join(f"{query.file}: {query.title}: {text}" for query, text in left.items()), 60)
    assert [text for query, text in queries.items() if _excused(mode, query) and stack.query(text)] == []


@pytest.mark.parametrize("mode", MODES)
def test_every_query_of_the_dashboards_has_an_answer(mode: str, stack: Stack) -> None:
    check(stack, mode, {query: of_mode(query, mode) for query in promql.of_dashboards()})


INGESTED = 2.0  # seconds: what was scraped before that does not change any more
KEYS = ("job", "instance", "knock_environment", "group", "operation_id")  # that a row of a table has
# Of each table, what says which rows it has, whatever else is known.
ROWS = {
    "Groups": {"knock_bulk_operations", "knock_group_last_run_timestamp_seconds"},
    "Unfinished operations": {
        f"knock_bulk_operation_{what}" for what in ("info", "status", "inserted_timestamp_seconds")
    },
    "Failed, or with errors": {
        f"knock_bulk_operation_{what}" for what in ("info", "status", "errors", "last_change_timestamp_seconds")
    },
    "Instances": {"knock_exporter_build_info"},
}


def rows_of(stack: Stack, text: str, moment: float) -> list[tuple[str, ...]]:
    asking: dict[str, Any] = {"query": text, "time": moment}
    answer = WEB.get(f"{stack.prometheus}/api/v1/query", params=asking, timeout=30).json()
    return [tuple(each["metric"].get(name, "") for name in KEYS) for each in answer["data"]["result"]]


@pytest.mark.parametrize("table", ROWS)
def test_a_table_has_a_cell_of_every_column_in_every_row_whatever_is_known(table: str, stack: Stack) -> None:
    queries = [query for query in promql.of_dashboards() if query.title == table]
    texts = {of_mode(query, "all"): query.names() - ROWS[table] for query in queries}
    until(lambda: all(rows_of(stack, text, time.time() - INGESTED) for text in texts), table, 60)
    moment = time.time() - INGESTED
    every = set(rows_of(stack, next(iter(texts)), moment))
    for text, others in texts.items():
        unknown = re.sub(rf"(?<![\w:])({'|'.join(others)})(?![\w:])", "unknown", text) if others else text
        for asked in (text, unknown):
            rows = rows_of(stack, asked, moment)
            assert len(rows) == len(set(rows)), asked
            assert set(rows) == every, asked


@pytest.mark.parametrize("mode", MODES)
def test_every_record_has_a_value(mode: str, stack: Stack) -> None:
    records = [query for query in promql.of_rules() if query.file == "recording.yaml"]
    check(stack, mode, {query: f'{query.title}{{knock_environment="mode-{mode}"}}' for query in records})


STEP, STEPS = 60, 20
EVERY = (15, 60, 120)  # seconds between scrapes
LABELS = dict.fromkeys(("name", "status", "reason", "label", "source", "le"), "1")
CONFIGURED = "knock_exporter_config_last_reload_success_timestamp_seconds"


COUNTS = [promql.Query("", "", target["expr"]) for panel in promql.counting() for target in panel["targets"]]


def scrapes(names: set[str], every: int, end: float) -> tuple[list[str], int]:
    """Return scrapes of counters that grow now and then, and how much growth of each name steps can show."""
    last = STEPS * STEP // every
    middle, each_step = last // 2 + 1, max(1, STEP // every)  # the first scrape of a step, and how many one has
    begin, later, latest = range(last + 1), range(middle, last + 1), range(middle + each_step, last + 1)
    lines, grown = [], 0
    for instance, group, first, places, configured in (
        ("steady", "old", 100, begin, 0),
        ("steady", "new", 0, later, 0),
        ("gone", "old", 100, range(middle), 0),
        ("started", "old", 0, later, middle),
        ("discovered", "old", 1000, later, 0),
        ("not always scraped", "old", 1000, latest, middle),
        ("restarted", "old", 100, begin, middle),
        ("reloaded", "old", 100, begin, middle),
    ):
        own = LABELS | {"knock_environment": f"every-{every}", "instance": f"{instance} {every}", "group": group}
        labels = ",".join(f'{name}="{text}"' for name, text in own.items())
        value, unknown = first, places[:each_step] if instance in {"discovered", "not always scraped"} else ()
        for place in begin:
            at = end - STEPS * STEP + (place - 0.4) * every  # a scrape hardly ever falls on the edge of a step
            if place in places:
                growth = place * 7 % 11 if place and place % 5 == 1 else 0
                value = growth if (instance, place) == ("restarted", middle) else value + growth
                grown += 0 if place in unknown else growth
                lines += [f"{name}{{{labels}}} {value} {at:.3f}" for name in names]
            if group == "old" and (place in places or place >= configured > 0):
                since = end - STEPS * STEP + (configured - 0.9) * every if place >= configured > 0 else 0
                lines.append(f'{CONFIGURED}{{instance="{instance} {every}"}} {since:.3f} {at:.3f}')
    return lines, grown


class Counted(NamedTuple):
    """What was scraped until `end`, at each interval into an environment of its own, and by how much it grew."""

    blocks: Path
    end: float
    grown: dict[int, int]


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Counted:
    folder, end = tmp_path_factory.mktemp("counted"), time.time() // STEP * STEP
    names = set().union(*(query.names() for query in COUNTS)) - {CONFIGURED}
    made = {every: scrapes(names, every, end) for every in EVERY}
    text = "\n".join([line for lines, _ in made.values() for line in lines])
    (folder / "scrapes.txt").write_text(f"{text}\n# EOF\n")
    run(tool("promtool"), "tsdb", "create-blocks-from", "openmetrics", folder / "scrapes.txt", folder / "tsdb")
    return Counted(folder / "tsdb", end, {every: grown for every, (_, grown) in made.items()})


@pytest.fixture(scope="module", params=[2, 3])
def prometheus(
    request: pytest.FixtureRequest, counted: Counted, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Run a Prometheus of each line on what was scraped."""
    folder = tmp_path_factory.mktemp("prometheus")
    shutil.copytree(counted.blocks, folder / "tsdb")
    with stacks.prometheus(folder, {}, request.param) as url:
        yield url


@pytest.mark.parametrize("every", EVERY)
def test_what_bars_and_heatmaps_count_adds_up_to_what_happened(every: int, prometheus: str, counted: Counted) -> None:
    assert counted.grown[every]
    for query in COUNTS:
        text = query.filled(
            environment=f"every-{every}",
            instance=f".* {every}",
            __interval=f"{STEP}s",
            __interval_ms=f"{STEP * 1000}",
            __rate_interval=f"{max(STEP + every, 4 * every)}s",
        )
        span: dict[str, Any] = {"query": text, "end": counted.end, "step": STEP}
        span["start"] = counted.end - STEP * (STEPS - 1)
        answer = WEB.get(f"{prometheus}/api/v1/query_range", params=span, timeout=30).json()
        shown = [float(value) for each in answer["data"]["result"] for _, value in each["values"]]
        assert sum(shown) == counted.grown[every], text
