"""The exporter's own families: what it did, and how it is.

A table: each row is a family of prometheus-client's, made for an `Activity` in a registry of its own. The tracker's
thread counts; each scrape encodes them.
"""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, overload

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from exporter import __version__
from exporter.errors import Reason
from exporter.tracking.memberships import SourceKind
from exporter.tracking.pacing import PollClass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

POLL_DELAY_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900)
API_BUCKETS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
SCRAPE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
HTTP_REFUSALS = (
    "password",
    "no_password",
    "token",
    "site",
    "tls",
    "connections",
    "timeout",
    "too_large",
    "rate",
    "busy",
)
ID_REFUSALS = ("limit", "invalid")
FOLDED_LABELS = ("group", "name")
NO_ANSWER = "none"

_E = "knock_environment"
_KNOWN_CODES = frozenset((200, 301, 302, 307, 308, 400, 401, 403, 404, 408, 409, 422, 429, 500, 502, 503, 504))
_Kind = TypeVar("_Kind", bound=Any)


def code_label(code: int | None) -> str:
    """Return the `code` of an answer: an unusual one only by its class, so that a server cannot make series at will."""
    if code is None:
        return NO_ANSWER
    return str(code) if code in _KNOWN_CODES else f"{code // 100}xx"


class LateGauge(Gauge):
    """A gauge without labels that has no sample until it is set; prometheus-client's own would say 0."""

    _is_set = False

    def set(self, value: float) -> None:
        """Set it."""
        super().set(value)
        self._is_set = True

    def collect(self) -> Iterable[Metric]:
        """Yield the family, for prometheus-client."""
        for metric in super().collect():
            if not self._is_set:
                metric.samples.clear()
            yield metric


class OwnFamily(Generic[_Kind]):
    """One family: an attribute of `Activity` that holds the family of this kind, made with each object.

    `at_first` are the values of the label besides the environment's whose series stand from the start, at 0; () where
    there is no such label; None: no series before something happens.
    """

    def __init__(
        self,
        kind: Callable[..., _Kind],
        name: str,
        documentation: str,
        *labels: str,
        at_first: Iterable[str] | None = None,
        buckets: Sequence[float] | None = None,
    ) -> None:
        self._kind, self._name, self._documentation, self.labels = kind, name, documentation, labels
        self._at_first: list[tuple[str, ...]] = []
        if at_first is not None:
            self._at_first = [(value,) for value in at_first] or [()]
        self._options = {} if buckets is None else {"buckets": buckets}

    @overload
    def __get__(self, instance: None, owner: type) -> OwnFamily[_Kind]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> _Kind: ...

    def __get__(self, instance: object | None, owner: type) -> OwnFamily[_Kind] | _Kind:
        """Tell type checkers what an object has under this name: `__init__` puts its own family there."""
        return self

    def make(self, registry: CollectorRegistry) -> _Kind:
        """Make the family."""
        return self._kind(self._name, self._documentation, self.labels, registry=registry, **self._options)

    def begin(self, family: _Kind, *environment: str) -> None:
        """Make the series that stand from the start."""
        for values in self._at_first:
            family.labels(*environment, *values)


class PollCounters(NamedTuple):
    """What is counted with each poll of an environment, at hand without a look-up by labels."""

    polls: Counter
    seconds: Histogram
    delay: dict[PollClass, Histogram]


class Activity:
    """Every family about the exporter itself, as attributes; `registry` holds them."""

    up = OwnFamily(
        Gauge,
        "knock_up",
        "1 if Knock's last response accepted the API key; 0 if Knock refused the key or did not respond for 30 s.",
        _E,
    )
    last_response = OwnFamily(
        Gauge, "knock_last_answer_timestamp_seconds", "When Knock last responded, in Unix seconds.", _E
    )
    build_info = OwnFamily(
        Gauge,
        "knock_exporter_build_info",
        "Version and revision of the exporter, and version of Python; always 1.",
        *("version", "revision", "pythonversion"),
    )
    web_info = OwnFamily(
        Gauge,
        "knock_exporter_web_info",
        "URL of the exporter's pages for users, from --web.external-url; always 1.",
        "external_url",
    )
    reload_successful = OwnFamily(
        LateGauge,
        "knock_exporter_config_last_reload_successful",
        "Whether the last attempt to load the configuration succeeded.",
    )
    reload_time = OwnFamily(
        LateGauge,
        "knock_exporter_config_last_reload_success_timestamp_seconds",
        "When the active configuration was loaded, in Unix seconds.",
    )
    operations = OwnFamily(Gauge, "knock_exporter_operations", "Operations tracked.", _E)
    operations_limit = OwnFamily(Gauge, "knock_exporter_operations_limit", "Maximum number of tracked operations.")
    refused = OwnFamily(
        Counter,
        "knock_exporter_operations_refused",
        "Operation ids that the exporter did not accept.",
        *(_E, "reason"),
        at_first=ID_REFUSALS,
    )
    conflicts = OwnFamily(
        Counter,
        "knock_exporter_source_conflicts",
        "Operations for which sources gave different groups or labels.",
        _E,
        at_first=(),
    )
    not_exposed = OwnFamily(
        Gauge,
        "knock_exporter_operations_not_exposed",
        "Tracked operations without series of their own, because of per_operation or per_operation_limit.",
        _E,
    )
    folded = OwnFamily(
        Counter,
        "knock_exporter_label_values_folded",
        "Label values shown as `other`, because there are too many, or because they are too long or not printable.",
        *(_E, "label"),
        at_first=FOLDED_LABELS,
    )
    poll_interval = OwnFamily(
        Gauge,
        "knock_exporter_poll_interval_seconds",
        "Longest planned interval between two polls of an unfinished operation, in seconds.",
        _E,
    )
    polls = OwnFamily(Counter, "knock_exporter_polls", "Attempts to read an operation from Knock.", _E, at_first=())
    poll_failures = OwnFamily(
        Counter,
        "knock_exporter_poll_failures",
        "Failed attempts to read an operation from Knock.",
        *(_E, "reason"),
        at_first=Reason,
    )
    poll_delay = OwnFamily(
        Histogram,
        "knock_exporter_poll_delay_seconds",
        "Seconds from the planned time of a poll to the time when it was sent.",
        *(_E, "class"),
        at_first=PollClass,
        buckets=POLL_DELAY_BUCKETS,
    )
    requests = OwnFamily(
        Counter,
        "knock_exporter_api_requests",
        "Requests to Knock by HTTP status code, including checks of the key; none: no response.",
        *(_E, "code"),
    )
    request_duration = OwnFamily(
        Histogram,
        "knock_exporter_api_request_duration_seconds",
        "Duration of requests to Knock in seconds, including the response body.",
        _E,
        at_first=(),
        buckets=API_BUCKETS,
    )
    in_flight = OwnFamily(
        Gauge, "knock_exporter_api_requests_in_flight", "Requests to Knock under way.", _E, at_first=()
    )
    rate_limit = OwnFamily(
        Gauge,
        "knock_exporter_api_rate_limit_requests_per_second",
        "Requests to Knock that are allowed per second now; lower than configured after a 429.",
        _E,
    )
    suspended = OwnFamily(
        Gauge,
        "knock_exporter_api_suspended",
        "Whether requests are suspended because Knock refuses the key (1) or not (0).",
        _E,
        at_first=(),
    )
    source_success = OwnFamily(
        Gauge,
        "knock_exporter_source_last_success_timestamp_seconds",
        "When a source of operation ids was last read, in Unix seconds.",
        *(_E, "source"),
    )
    source_failures = OwnFamily(
        Counter,
        "knock_exporter_source_failures",
        "Failures to read a source of operation ids.",
        *(_E, "source"),
        at_first=SourceKind,
    )
    http_refused = OwnFamily(
        Counter,
        "knock_exporter_http_refused",
        "Requests and connections to the exporter that were refused.",
        "reason",
        at_first=HTTP_REFUSALS,
    )
    state_written = OwnFamily(
        LateGauge,
        "knock_exporter_state_last_write_timestamp_seconds",
        "When state was last written, in Unix seconds; absent without storage.",
    )
    state_failures = OwnFamily(Counter, "knock_exporter_state_write_failures", "Failures to write state.")
    tracker_stepped = OwnFamily(
        LateGauge,
        "knock_exporter_tracker_last_step_timestamp_seconds",
        "Last heartbeat of the thread that polls and updates operations, in Unix seconds.",
    )
    scrape_duration = OwnFamily(
        Histogram,
        "knock_exporter_scrape_duration_seconds",
        "Seconds to generate the response to a scrape, without the time to send it.",
        buckets=SCRAPE_BUCKETS,
    )
    exposition_size = OwnFamily(
        LateGauge,
        "knock_exporter_exposition_size_bytes",
        "Size of the last response to a scrape in bytes, uncompressed.",
    )

    def __init__(self, revision: str = "unknown", *, process: bool = True) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # the library leaves it without types
        self.registry = CollectorRegistry()
        self._refusals: dict[str, dict[str, Counter]] = {}
        self._by_environment: list[tuple[OwnFamily[Any], Any]] = []
        for attribute, row in vars(Activity).items():
            if isinstance(row, OwnFamily):
                family = self.__dict__[attribute] = row.make(self.registry)
                if _E in row.labels:
                    self._by_environment.append((row, family))
                else:
                    row.begin(family)
        self.build_info.labels(__version__, revision, platform.python_version()).set(1)
        if process:
            self._register_process()

    def _register_process(self) -> None:
        PlatformCollector(registry=self.registry)
        if sys.implementation.name == "cpython":
            GCCollector(registry=self.registry)
        ProcessCollector(registry=self.registry)

    def add_environment(self, name: str) -> PollCounters:
        """Make the series of an environment that stand from the start, at 0; return those of its polls."""
        for row, family in self._by_environment:
            row.begin(family, name)
        self._refusals[name] = {reason: self.refused.labels(name, reason) for reason in ID_REFUSALS}
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
        for _, family in self._by_environment:
            family.remove_by_labels({_E: name})
