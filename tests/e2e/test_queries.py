"""Every query of the dashboards and records runs against a real Prometheus, in all modes."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, get_args

import promql
import pytest
import stack as stacks
from programs import Starter, free_port, until

from exporter.config import PerOperation
from exporter.knock.simulator import Simulator, World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stack import Stack

pytestmark = pytest.mark.e2e

MODES = get_args(PerOperation)
POLLING = {"processing": "500ms", "queued": "500ms", "slowest": "1s"}
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
    make = knock.world.create
    operations = [
        make(rows=10**6, queue_seconds=2.0, rows_per_second=50.0, errors=10**5),
        make(rows=10, queue_seconds=25.0, rows_per_second=20.0, fails=True),  # when Prometheus has looked for a while
        make(rows=10, queue_seconds=25.0, rows_per_second=20.0, errors=4),
        make(rows=10, queue_seconds=1e6),
    ]
    listed = [{"id": each, "group": "migration"} for each in operations]
    whole = starter.configure(knock.url, listed, per_operation=mode, polling=POLLING, name=f"mode-{mode}")
    exporter = starter.run(f"--config.file={whole}", f"--web.listen-address=127.0.0.1:{free_port()}")
    return exporter.url.removeprefix("http://")


def _excused(mode: str, query: promql.Query) -> bool:
    return mode == "none" and any(query.file == file and query.title.startswith(start) for file, start in OF_OPERATIONS)


def of_mode(query: promql.Query, mode: str) -> str:
    """Return a query for one exporter: Grafana's variables choose it."""
    return query.filled(environment=f"mode-{mode}", __rate_interval="10s", __range="1m")


def unexpected(stack: Stack, mode: str, queries: dict[promql.Query, str]) -> list[str]:
    """Return which queries have no answer though they should, or one though they should not."""
    return [
        f"{query.file}: {query.title}: {text}"
        for query, text in queries.items()
        if bool(stack.query(text)) == _excused(mode, query)
    ]


@pytest.mark.parametrize("mode", MODES)
def test_every_query_of_the_dashboards_has_an_answer(mode: str, stack: Stack) -> None:
    queries = {query: of_mode(query, mode) for query in promql.of_dashboards()}
    until(lambda: not unexpected(stack, mode, queries), lambda: str(unexpected(stack, mode, queries)), 60)


@pytest.mark.parametrize("mode", MODES)
def test_every_record_has_a_value(mode: str, stack: Stack) -> None:
    records = [query for query in promql.of_rules() if query.file == "recording.yaml"]
    queries = {query: f'{query.title}{{knock_environment="mode-{mode}"}}' for query in records}
    until(lambda: not unexpected(stack, mode, queries), lambda: str(unexpected(stack, mode, queries)), 60)
