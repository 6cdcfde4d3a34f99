"""What is watched as metrics: a file for node_exporter, and a Pushgateway, by prometheus-client's own functions."""

from __future__ import annotations

from http.client import HTTPException
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, push_to_gateway, write_to_textfile
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from exporter.errors import StartError
from exporter.metrics.exposition import operations_text, run_text
from exporter.terminal.watch.documents import count_of, time_of
from exporter.terminal.watch.operations import WatchedOperations
from exporter.tracking.runs import Run, RunSums
from exporter.tracking.snapshot import GroupStatus
from exporter.tracking.transitions import STATES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from prometheus_client import Metric

    from exporter.terminal.watch.run import WatchedRun

JOB = "knock-exporter-watch"
PUSH_SECONDS = 5.0
INTERVAL_SECONDS = 15.0
_RUN = "knock_group_run_"


class _Collected(Collector):
    """Metric families that were made already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def registry_of(state: WatchedOperations | WatchedRun) -> CollectorRegistry:
    """Return what the exporter's own port would show: the families of each operation, or those of the run alone."""
    if isinstance(state, WatchedOperations):
        text = operations_text(each.tracked for each in state.watched.values())
    else:
        text = run_text(_status(state)) if state.current is not None else b""
    found = text_string_to_metric_families(text.decode())
    registry = CollectorRegistry()
    registry.register(
        _Collected(each for each in found if isinstance(state, WatchedOperations) or each.name.startswith(_RUN))
    )
    return registry


def _status(state: WatchedRun) -> GroupStatus:
    """Make of an exporter's answer what its port shows the run of."""
    shown = state.current or {}
    run = Run(
        state.id,
        time_of(shown.get("opened_at")) or 0.0,
        count_of(shown.get("expected_operations")),
        closed=time_of(shown.get("closed_at")),
        finished=time_of(shown.get("finished_at")),
    )
    sums = [count_of(shown.get(each)) or 0 for each in RunSums._fields[1:]]
    by_state = tuple(state.counts.get(each, 0) for each in STATES)
    return GroupStatus(
        state.environment,
        state.name,
        is_declared=False,
        every=None,
        last_run=None,
        run=run,
        deadline=time_of(shown.get("deadline_at")),
        sums=RunSums(by_state, *sums),
    )


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
