"""Every query that users get runs against a real Prometheus, in all modes; and how much it costs at 10,000."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, get_args

import promql
import pytest
import stack as stacks
import yaml
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
# Why a query may find nothing, by the start of its place; where no mode is named, in each.
MAY_BE_EMPTY = {
    ("none", "overview.json", "Unfinished operations"): "operations have no series of their own",
    ("none", "overview.json", "Failed, or with errors"): "the same",
    ("none", "recording.yaml", "operation:"): "the same",
}


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
    whole = starter.configure(knock.url, [], per_operation=mode, polling=POLLING, name=f"mode-{mode}")
    config = yaml.safe_load(whole.read_text())
    config["environments"][0]["operations"] = listed
    whole.write_text(yaml.safe_dump(config))
    exporter = starter.run(f"--config.file={whole}", f"--web.listen-address=127.0.0.1:{free_port()}")
    return exporter.url.removeprefix("http://")


def _excuse(mode: str, query: promql.Query) -> str | None:
    for (in_mode, file, title), reason in MAY_BE_EMPTY.items():
        if in_mode in {mode, ""} and query.file == file and query.title.startswith(title):
            return reason
    return None


def of_mode(query: promql.Query, mode: str) -> str:
    """Return a query for one exporter: Grafana's variables choose it."""
    return query.filled(environment=f"mode-{mode}", __rate_interval="10s", __range="1m")


def unexpected(stack: Stack, mode: str, queries: dict[promql.Query, str]) -> list[str]:
    """Return which queries have no answer though they should, or one though they should not."""
    return [
        f"{query.file}: {query.title}: {text}"
        for query, text in queries.items()
        if bool(stack.query(text)) == bool(_excuse(mode, query))
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
