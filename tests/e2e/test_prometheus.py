"""What real scrapers make of it: Prometheus 2 and 3, their promtool, and VictoriaMetrics."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import browser
import pytest
import yaml
from programs import WEB, Hands, Program, Relay, Starter, run, tool, until

from exporter.simulator import Simulator, World, faults

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from programs import Exporter

pytestmark = pytest.mark.e2e

LINES = (2, 3)
WAIT_SECONDS = 60.0  # on a busy machine
POLLING = {"processing": "200ms", "queued": "200ms", "slowest": "1s"}
ROWS = 100
ENDED_SECONDS = 10.0  # from when on all operations that end have ended
EACH_LEVEL = {  # a sample of each level, and its value
    "knock_up": 1,
    'sum(knock_bulk_operation_rows_processed{operation_id="COMPLETED"})': ROWS,
    'sum(knock_bulk_operation_status{status="failed"})': 1,
    'sum(knock_bulk_operations{status="completed"})': 2,
    "sum(knock_bulk_operations_finished_with_errors_total)": 1,
    'sum(knock_bulk_operations_run_duration_seconds_count{status="failed"})': 1,
    'sum(knock_bulk_operations_run_duration_seconds_bucket{le="+Inf",status="completed"})': 2,
    'sum(knock_bulk_operations_stale{name="users.identify"})': 0,  # those that are never read get stale after 30 s
    'sum(knock_exporter_poll_failures_total{reason="server_error"} > bool 0)': 1,
    "count(knock_exporter_build_info)": 1,
}


def states(knock: Simulator) -> dict[str, str]:
    """Make an operation in each state there is, and return their ids by a name."""
    make = knock.world.create
    made = {
        "queued": make(queue_seconds=1e6),
        "processing": make(rows=10**6, queue_seconds=0.0, rows_per_second=50.0),
        "completed": make(rows=ROWS, queue_seconds=3.0, rows_per_second=100.0),
        "with errors": make("objects.projects.set", rows=ROWS, errors=7, queue_seconds=3.0, rows_per_second=100.0),
        "failed": make("users.delete", rows=ROWS, queue_seconds=3.0, rows_per_second=100.0, fails=True),
        "stalled": make(rows=ROWS, queue_seconds=0.0, rows_per_second=200.0, stalls=True),
        "never answered": make(),
        "missing": "123e4567-e89b-12d3-a456-426614174000",
    }
    made["odd"] = knock.world.put({"id": "123e4567-e89b-12d3-a456-426614174001", "status": "paused", "name": 'a"\\\nb'})
    knock.faults.set(faults.StatusFault(status=500, id=made["never answered"]))
    return made


@dataclass(frozen=True)
class EveryLevel:
    """An exporter with operations in all states, and their ids by name."""

    exporter: Exporter
    ids: dict[str, str]

    def queries(self) -> dict[str, float]:
        return {query.replace("COMPLETED", self.ids["completed"]): value for query, value in EACH_LEVEL.items()}


def await_statuses(exporter: Exporter, **counts: int) -> None:
    """Wait until so many operations have each of these statuses."""
    for status, count in counts.items():
        until(lambda s=status, n=count: exporter.value("knock_bulk_operations", status=s) == n, status, WAIT_SECONDS)  # type: ignore[misc] # mypy


@pytest.fixture(scope="module")
def every_level(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EveryLevel]:
    start = Starter(tmp_path_factory.mktemp("exporter"))
    hands = Hands()
    with Simulator(world=World(seed=1, clock=hands.clock), rate_limits=False) as knock:
        ids = states(knock)
        try:
            exporter = start(knock.url, [*ids.values()], polling=POLLING)
            await_statuses(exporter, queued=4, unknown=1)
            hands.passed = ENDED_SECONDS  # what had ended before it was seen would not be counted
            await_statuses(exporter, completed=2, failed=1)
            yield EveryLevel(exporter, ids)
        finally:
            start.end()


@contextlib.contextmanager
def scraper(folder: Path, name: str, exporter: Exporter, command: list[str]) -> Iterator[tuple[Program, Relay]]:
    """Run a scraper with a configuration that points at the exporter through a relay."""
    with Relay(exporter.url).running() as relay:
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "scrape_configs": [{"job_name": "knock", "static_configs": [{"targets": [relay.address]}]}],
        }
        (folder / "scrape.yml").write_text(yaml.safe_dump(config))
        program = Program(command, folder / f"{name}.log")
        try:
            yield program, relay
        finally:
            program.end()


def query(url: str, expression: str) -> float | None:
    answer = WEB.get(f"{url}/api/v1/query", params={"query": expression}, timeout=30).json()
    found = answer["data"]["result"]
    return float(found[0]["value"][1]) if found else None


def has_all(url: str, every_level: EveryLevel) -> None:
    for expression, value in every_level.queries().items():
        until(lambda e=expression, v=value: query(url, e) == v, f"{expression} == {value}", WAIT_SECONDS)  # type: ignore[misc] # mypy
    assert query(url, "up") == 1


def troubles(log: str) -> list[str]:
    """Return what a scraper complains about, but for the signal that ended it."""
    lines = [
        line
        for line in log.splitlines()
        if re.search(r"level=(warn|error)|\t(warn|error|fatal|panic)\t", line, re.IGNORECASE)
    ]
    return [line for line in lines if "exiting gracefully" not in line]


def families(text: str) -> set[str]:
    return set(re.findall(r"(?m)^# TYPE (\S+)", text))


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text; version=1.0.0"])
def test_curl_unpacks_the_whole(every_level: EveryLevel, accept: str) -> None:
    command = ["curl", "--silent", "--show-error", "--fail", "--header", f"Accept: {accept}"]
    plain, unpacked = [
        families(run(*command, *more, f"{every_level.exporter.url}/metrics")) for more in ([], ["--compressed"])
    ]
    assert unpacked == plain
    assert {"knock_bulk_operation_info", "knock_exporter_build_info"} <= plain


def test_a_browser_unpacks_the_whole(every_level: EveryLevel) -> None:
    with browser.running() as chromium:
        answer = chromium.new_page().goto(f"{every_level.exporter.url}/metrics")
        assert answer is not None
        assert answer.header_value("Content-Encoding") == "gzip"
        assert families(answer.text()) == families(every_level.exporter.metrics())


@pytest.mark.parametrize("line", LINES)
def test_prometheus_scrapes_it(every_level: EveryLevel, tmp_path: Path, line: int) -> None:
    command = [
        tool("prometheus", line),
        f"--config.file={tmp_path / 'scrape.yml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    ]
    with scraper(tmp_path, "prometheus", every_level.exporter, command) as (prometheus, relay):
        url = "http://" + prometheus.said(r'msg="Listening on".* address=(127\.0\.0\.1:\d+)')[0]
        until(lambda: len(relay.exchanges) >= 3, "three scrapes", WAIT_SECONDS)
        has_all(url, every_level)
        target = WEB.get(f"{url}/api/v1/targets", timeout=30).json()["data"]["activeTargets"][0]
        assert (target["health"], target["lastError"]) == ("up", "")
        assert query(url, "scrape_samples_scraped > 0") == query(url, "scrape_samples_post_metric_relabeling")
        metadata = WEB.get(f"{url}/api/v1/metadata", timeout=30).json()["data"]
        assert metadata["knock_bulk_operation_info"][0]["type"] == "gauge"
    for asked, answered in relay.exchanges:
        assert asked["Accept-Encoding"] == "gzip"
        assert answered["Content-Encoding"] == "gzip"
        assert answered["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert troubles(prometheus.output) == []


def test_victoria_metrics_scrapes_it(every_level: EveryLevel, tmp_path: Path) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as chosen:
        port = chosen.getsockname()[1]  # it does not tell which one it got for 0
    command = [
        tool("victoria-metrics"),
        f"-promscrape.config={tmp_path / 'scrape.yml'}",
        f"-storageDataPath={tmp_path / 'data'}",
        f"-httpListenAddr=127.0.0.1:{port}",
        "-search.latencyOffset=0s",
        "-search.disableCache",
        "-memory.allowedBytes=64MiB",
    ]
    with scraper(tmp_path, "victoria-metrics", every_level.exporter, command) as (victoria, relay):
        victoria.said("started VictoriaMetrics in")
        until(lambda: len(relay.exchanges) >= 3, "three scrapes", WAIT_SECONDS)
        has_all(f"http://127.0.0.1:{port}", every_level)
    for _, answered in relay.exchanges:
        assert answered["Content-Encoding"] == "gzip"
        assert answered["Content-Type"].startswith("text/plain; version=0.0.4")
    assert troubles(victoria.output) == []


@pytest.mark.parametrize("line", LINES)
def test_promtool_finds_nothing(every_level: EveryLevel, line: int) -> None:
    text = every_level.exporter.metrics()
    for name in ("queued", "processing", "completed", "failed", "unknown", "pending"):
        assert re.search(rf'^knock_bulk_operations\{{.*status="{name}"\}} [1-9]', text, re.MULTILINE), name
    checked = subprocess.run(
        [tool("promtool", line), "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
