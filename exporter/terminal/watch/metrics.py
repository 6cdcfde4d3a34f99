"""What is watched as metrics: a file for node_exporter, and a Pushgateway, by prometheus-client's own functions."""

from __future__ import annotations

from http.client import HTTPException
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, push_to_gateway, write_to_textfile
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from exporter.errors import StartError
from exporter.metrics.exposition import operations_text
from exporter.terminal.watch.documents import count_of, time_of
from exporter.terminal.watch.operations import WatchedOperations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from prometheus_client import Metric

    from exporter.terminal.watch.run import WatchedRun

JOB = "knock-exporter-watch"
PUSH_SECONDS = 5.0
INTERVAL_SECONDS = 15.0
_PREFIX = "knock_group_run_"
_TIMES = {
    "opened": "When the run was opened, in Unix seconds.",
    "closed": "When the job said that it had submitted all operations of the run, in Unix seconds.",
    "finished": "When all that the run expected was first seen at its end, in Unix seconds.",
    "deadline": "When the run is to be finished, in Unix seconds: its own deadline, or else the group's.",
}
_COUNTS = {
    "expected_operations": "Operations of the run, as the job declared.",
    "rows_processed": (
        "Sum of Knock's processed_rows over the operations of the run, retired and lost ones with their last values."
    ),
    "rows_estimated": "Sum of Knock's estimated_total_rows over the operations of the run, likewise.",
    "errors": "Sum of Knock's error_count over the operations of the run, likewise.",
}
_BY_STATUS = "Operations of the run, retired ones too, by Knock's status as of their last successful poll."


class _Collected(Collector):
    """Metric families that were made already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def registry_of(state: WatchedOperations | WatchedRun) -> CollectorRegistry:
    """Return what the exporter's own port would show: the families of each operation, or those of the run alone."""
    registry = CollectorRegistry()
    if isinstance(state, WatchedOperations):
        text = operations_text(each.tracked for each in state.watched.values()).decode()
        registry.register(_Collected(text_string_to_metric_families(text)))
    else:
        labels = {"knock_environment": state.environment, "group": state.name}
        registry.register(_Collected(_run_families(state.current or {}, state.counts, labels)))
    return registry


def _run_families(run: Mapping[str, Any], counts: Mapping[str, int], labels: Mapping[str, str]) -> Iterator[Metric]:
    if not run:
        return
    for field, text in _TIMES.items():
        yield _gauge(f"{field}_timestamp_seconds", text, labels, time_of(run.get(f"{field}_at")))
    for field, text in _COUNTS.items():
        yield _gauge(field, text, labels, count_of(run.get(field)))
    family = GaugeMetricFamily(f"{_PREFIX}operations", _BY_STATUS, labels=[*labels, "status"])
    for status, count in counts.items():
        family.add_metric([*labels.values(), status], count)
    yield family


def _gauge(name: str, text: str, labels: Mapping[str, str], value: float | None) -> Metric:
    family = GaugeMetricFamily(f"{_PREFIX}{name}", text, labels=list(labels))
    if value is not None:
        family.add_metric(list(labels.values()), value)
    return family


class MetricsOutput:
    """Writes and pushes what is known, every few seconds and at the end.

    A file that cannot be written at first is a mistake (StartError); what fails later is told once in a row.
    """

    def __init__(self, textfile: Path | None, gateway: str | None, warn: Callable[[str], None]) -> None:
        self._textfile, self._gateway, self._warn = textfile, gateway, warn
        self._next = float("-inf")
        self._failing: set[str] = set()
        self._wrote = False

    def update(self, state: WatchedOperations | WatchedRun, now: float) -> None:
        """Write and push, if it is time (monotonic)."""
        if now >= self._next:
            self._next = now + INTERVAL_SECONDS
            self.write(state)

    def write(self, state: WatchedOperations | WatchedRun) -> None:
        """Write and push."""
        if self._textfile is not None:
            try:
                write_to_textfile(str(self._textfile), registry_of(state))
            except OSError as error:
                problem = f"{self._textfile}: {error.strerror or error}"
                if not self._wrote:
                    raise StartError(problem) from None
                self._failed("textfile", problem)
            else:
                self._wrote = True
                self._failing.discard("textfile")
        if self._gateway is not None:
            environment = state.environment
            grouping = {"knock_environment": environment}
            if not isinstance(state, WatchedOperations):
                grouping["group"] = state.name
            try:
                push_to_gateway(self._gateway, JOB, registry_of(state), grouping, timeout=PUSH_SECONDS)
            except (OSError, ValueError, HTTPException) as error:
                self._failed("gateway", f"{self._gateway}: {error}")
            else:
                self._failing.discard("gateway")

    def _failed(self, what: str, problem: str) -> None:
        if what not in self._failing:
            self._failing.add(what)
            self._warn(problem)
