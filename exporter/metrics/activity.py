"""The exporter's own families: what it did, and how it is.

prometheus-client's objects, in a registry of their own. The tracker's thread counts; a scrape encodes them again.
"""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from exporter import __version__
from exporter.errors import Reason
from exporter.metrics.fresh import Fresh
from exporter.tracking.pacing import PollClass
from exporter.tracking.roster import SourceKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POLL_DELAY_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900)
API_BUCKETS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
SCRAPE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
HTTP_REFUSALS = ("password", "site", "too_large", "busy")
REFUSALS = ("limit", "invalid", "unauthorized")
FOLDED_LABELS = ("group", "name")
NO_ANSWER = "none"

_E = "knock_environment"
_KNOWN_CODES = frozenset((200, 301, 302, 307, 308, 400, 401, 403, 404, 408, 409, 422, 429, 500, 502, 503, 504))


def code_label(code: int | None) -> str:
    """Return the `code` of an answer: an unusual one only by its class, so that a server cannot make series at will."""
    if code is None:
        return NO_ANSWER
    return str(code) if code in _KNOWN_CODES else f"{code // 100}xx"


class _LateGauge:
    """A gauge without labels that has no sample until it is known; prometheus-client's own would say 0."""

    def __init__(self, name: str, documentation: str, value: Callable[[], float | None] = lambda: None) -> None:
        self._name, self._documentation, self._value = name, documentation, value

    def set(self, value: float) -> None:
        """Make it known."""
        self._value = lambda: value

    def collect(self) -> Iterator[Metric]:
        metric = Metric(self._name, self._documentation, "gauge")
        value = self._value()
        if value is not None:
            metric.add_sample(self._name, {}, value)
        yield metric


class PollCounters(NamedTuple):
    """What is counted with each poll of an environment, at hand without a look-up by labels."""

    polls: Counter
    seconds: Histogram
    delay: dict[PollClass, Histogram]


class Activity:
    """Every family about the exporter itself, as attributes; `registry` holds them.

    `heartbeat` (Unix seconds, None before the first step) is set by the tracker at each step.
    """

    def __init__(self, revision: str = "unknown", *, process: bool = True) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # the library leaves it without types
        r = self.registry = CollectorRegistry()
        self.fresh = Fresh(r)
        self.heartbeat: float | None = None
        self.up = Gauge(
            "knock_up",
            "Whether Knock's last answer accepted the key (1), or it was refused or no answer came for 30 s (0).",
            [_E],
            registry=r,
        )
        self.last_answer = Gauge(
            "knock_last_answer_timestamp_seconds", "When Knock last answered, in Unix seconds.", [_E], registry=r
        )
        build = Gauge(
            "knock_exporter_build_info",
            "Version of the exporter and of its Python; always 1.",
            ["version", "revision", "pythonversion"],
            registry=r,
        )
        build.labels(__version__, revision, platform.python_version()).set(1)
        self.reload_successful = _LateGauge(
            "knock_exporter_config_last_reload_successful",
            "Whether the last attempt to load the configuration succeeded.",
        )
        r.register(self.reload_successful)
        self.reload_time = _LateGauge(
            "knock_exporter_config_last_reload_success_timestamp_seconds",
            "When the active configuration was loaded, in Unix seconds.",
        )
        r.register(self.reload_time)
        self.operations = Gauge("knock_exporter_operations", "Operations tracked.", [_E], registry=r)
        self.operations_limit = Gauge(
            "knock_exporter_operations_limit", "How many operations are tracked at most.", registry=r
        )
        self.refused = Counter(
            "knock_exporter_operations_refused", "Operation ids handed over and not taken.", [_E, "reason"], registry=r
        )
        self._refusals: dict[str, dict[str, Counter]] = {}
        self.conflicts = Counter(
            "knock_exporter_source_conflicts",
            "Operations that sources name with different groups or labels.",
            [_E],
            registry=r,
        )
        self.not_exposed = Gauge(
            "knock_exporter_operations_not_exposed",
            "Tracked operations without series of their own, by per_operation and per_operation_limit.",
            [_E],
            registry=r,
        )
        self.folded = Counter(
            "knock_exporter_label_values_folded",
            "Label values replaced by `other`: too many different ones, too long, or not printable.",
            [_E, "label"],
            registry=r,
        )
        self.poll_interval = Gauge(
            "knock_exporter_poll_interval_seconds",
            "Longest interval planned between polls of an unfinished operation.",
            [_E],
            registry=r,
        )
        self.polls = Counter("knock_exporter_polls", "Attempts to read an operation from Knock.", [_E], registry=r)
        self.poll_failures = Counter(
            "knock_exporter_poll_failures",
            "Attempts to read an operation from Knock that brought none.",
            [_E, "reason"],
            registry=r,
        )
        self.poll_delay = Histogram(
            "knock_exporter_poll_delay_seconds",
            "How long after it was due a poll was sent.",
            [_E, "class"],
            buckets=POLL_DELAY_BUCKETS,
            registry=r,
        )
        self.requests = Counter(
            "knock_exporter_api_requests",
            "Requests to Knock by HTTP status code; none: no answer. Key checks included.",
            [_E, "code"],
            registry=r,
        )
        self.request_duration = Histogram(
            "knock_exporter_api_request_duration_seconds",
            "How long requests to Knock took, body included.",
            [_E],
            buckets=API_BUCKETS,
            registry=r,
        )
        self.in_flight = Gauge(
            "knock_exporter_api_requests_in_flight", "Requests to Knock under way.", [_E], registry=r
        )
        self.rate_limit = Gauge(
            "knock_exporter_api_rate_limit_requests_per_second",
            "Requests a second that are allowed now; lower than configured after a 429.",
            [_E],
            registry=r,
        )
        self.suspended = Gauge(
            "knock_exporter_api_suspended",
            "Whether asking is suspended because Knock refuses the key.",
            [_E],
            registry=r,
        )
        self.source_success = Gauge(
            "knock_exporter_source_last_success_timestamp_seconds",
            "When a source of operation ids was last read, in Unix seconds.",
            [_E, "source"],
            registry=r,
        )
        self.source_failures = Counter(
            "knock_exporter_source_failures", "Failures to read a source of operation ids.", [_E, "source"], registry=r
        )
        self.http_refused = Counter(
            "knock_exporter_http_refused", "Requests to the exporter that were refused.", ["reason"], registry=r
        )
        for reason in HTTP_REFUSALS:
            self.http_refused.labels(reason)
        self.state_written = _LateGauge(
            "knock_exporter_state_last_write_timestamp_seconds",
            "When state was last written, in Unix seconds; absent without storage.",
        )
        r.register(self.state_written)
        self.state_failures = Counter("knock_exporter_state_write_failures", "Failures to write state.", registry=r)
        r.register(
            _LateGauge(
                "knock_exporter_tracker_last_step_timestamp_seconds",
                "When the tracker last stepped, in Unix seconds.",
                lambda: self.heartbeat,
            )
        )
        self.scrape_duration = Histogram(
            "knock_exporter_scrape_duration_seconds",
            "How long it took to write an answer to a scrape, before it was sent.",
            buckets=SCRAPE_BUCKETS,
            registry=r,
        )
        self.exposition_size = _LateGauge(
            "knock_exporter_exposition_size_bytes", "Size of the last answer to a scrape, uncompressed."
        )
        r.register(self.exposition_size)
        self._by_environment = (
            *(self.up, self.last_answer, self.operations, self.refused, self.conflicts, self.not_exposed, self.folded),
            *(self.poll_interval, self.polls, self.poll_failures, self.poll_delay, self.requests, self.in_flight),
            *(self.request_duration, self.rate_limit, self.suspended, self.source_success, self.source_failures),
        )
        if process:
            self._register_process(r)

    @staticmethod
    def _register_process(registry: CollectorRegistry) -> None:
        PlatformCollector(registry=registry)
        if sys.implementation.name == "cpython":
            GCCollector(registry=registry)
        ProcessCollector(registry=registry)

    def add_environment(self, name: str) -> PollCounters:
        """Make the series of an environment that stand from the start, at 0; return those of its polls."""
        self._refusals[name] = {reason: self.refused.labels(name, reason) for reason in REFUSALS}
        for label in FOLDED_LABELS:
            self.folded.labels(name, label)
        for reason in Reason:
            self.poll_failures.labels(name, reason)
        for source in SourceKind:
            self.source_failures.labels(name, source)
        for metric in (self.conflicts, self.polls, self.request_duration, self.in_flight, self.suspended):
            metric.labels(name)
        return PollCounters(
            self.polls.labels(name),
            self.request_duration.labels(name),
            {poll_class: self.poll_delay.labels(name, poll_class) for poll_class in PollClass},
        )

    def refuse(self, environment: str, reason: str, count: int = 1) -> None:
        """Count ids that were not taken. Other threads may do so for an environment that was just removed."""
        if (refusals := self._refusals.get(environment)) is not None:
            refusals[reason].inc(count)

    def remove_environment(self, name: str) -> None:
        """Take away the series of an environment."""
        del self._refusals[name]
        for metric in self._by_environment:
            metric.remove_by_labels({_E: name})
