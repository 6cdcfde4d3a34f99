"""The names, types and labels that docs/metrics.md promises are those of /metrics, and the other way round."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from model import WALL, Model, environment, ids, running
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from exporter.config import Config
from exporter.config.settings import GroupSettings
from exporter.errors import KnockError, RateLimited, Reason
from exporter.metrics import own
from exporter.metrics.exposition import Format
from exporter.metrics.families import PER_NAME, PER_OPERATION, PER_RUN, Family
from exporter.operation import Operation, Status
from exporter.tracking.runs import RunDeadline

if TYPE_CHECKING:
    from exporter.tracking.messages import PollRequest
    from exporter.tracking.transitions import Moment

DOCUMENT = (Path(__file__).parent.parent / "docs" / "metrics.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(knock_\w+)` \| (\w+) \| ([\w, ]*)\|", re.MULTILINE)
REASONS = re.compile(r"^\| `(\w+)` \| [^|]+ \|$", re.MULTILINE)
LATER = {"knock_exporter_state_last_write_timestamp_seconds"}  # no state is kept yet
FROM_THE_DAEMON = {
    "knock_exporter_config_last_reload_successful",
    "knock_exporter_config_last_reload_success_timestamp_seconds",
    "knock_exporter_exposition_size_bytes",
}


class Shape(NamedTuple):
    """What of a family is public: its type and its labels."""

    kind: str
    labels: frozenset[str]


def documented() -> dict[str, Shape]:
    rows = ROW.findall(DOCUMENT)
    assert len(rows) == len({name for name, _, _ in rows}), "each family once"
    return {name: Shape(kind, frozenset(re.findall(r"\w+", labels))) for name, kind, labels in rows}


def a_model_of_everything() -> Model:
    operations = ids(7)

    def knock(request: PollRequest, _now: Moment) -> Operation | KnockError:
        number = operations.index(request.id)
        if number > 4:
            return RateLimited("429", retry_after=1.0)
        status = list(Status)[number]
        ends = {"completed": {"completed_at": WALL - 1}, "failed": {"failed_at": WALL - 1}}.get(status, {})
        return running(
            request.id, status=status, errors=1, error_items=1, updated_at=WALL, started_at=WALL - 400, **ends
        )

    watched = environment(operations=operations, groups=(GroupSettings("default", every=90000.0),))
    full = Model(Config((watched,)), knock)
    full.activity.reload_successful.set(1)
    full.activity.reload_time.set(WALL)
    full.activity.web_info.labels("https://example.com").set(1)
    full.activity.exposition_size.set(1)
    full.put_run("default", "tonight", operations=0, closed=True, deadline=RunDeadline(seconds=3600.0))
    full.run(30)
    return full


def exposed(full: Model) -> dict[str, Shape]:
    families = {}
    parsed = parse_openmetrics(full.metrics(Format.OPENMETRICS))  # type: ignore[no-untyped-call] # not typed by them
    for family in parsed:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        families[name] = Shape(family.type, frozenset(labels))
    return families


def headers(text: str) -> dict[str, str]:
    helped = {line.split()[2] for line in text.splitlines() if line.startswith("# HELP")}
    types = {words[2]: words[3] for line in text.splitlines() if (words := line.split())[:2] == ["#", "TYPE"]}
    assert helped == types.keys()
    return types


@pytest.fixture(scope="module")
def full() -> Model:
    return a_model_of_everything()


def test_metrics_shows_what_the_document_says(full: Model) -> None:
    shown, promised = exposed(full), documented()
    assert shown.keys() == promised.keys()
    for name, shape in promised.items():
        assert shown[name].kind == shape.kind, name
        assert shown[name].labels == (frozenset() if name in LATER else shape.labels), name


def test_header_and_type_stand_without_samples() -> None:
    empty = Model(Config(()), lambda request, _now: running(request.id))
    empty.run(1)
    assert headers(empty.metrics()) == {name: shape.kind for name, shape in documented().items()}


def test_what_is_not_known_has_no_sample() -> None:
    fresh = Model(Config((environment(),)), lambda request, _now: running(request.id), latency=lambda _request: 99.0)
    fresh.run(1)
    absent = {"knock_up", "knock_last_answer_timestamp_seconds", "knock_exporter_poll_interval_seconds"}
    absent |= LATER | FROM_THE_DAEMON | {family.name for family in (*PER_OPERATION, *PER_NAME, *PER_RUN)}
    assert {name: fresh.samples(name) for name in absent} == {name: [] for name in absent}


def test_help_names_the_fields_that_the_document_names() -> None:
    fields = set(re.findall(r"`((?!knock_)\w+_(?:rows|count|items|at))`", DOCUMENT))
    assert {"processed_rows", "failed_at"} <= fields
    families: tuple[Family, ...] = (*PER_OPERATION, *PER_NAME, *PER_RUN)
    for family in families:
        (row,) = re.findall(rf"^\| `{family.name}` \|.*$", DOCUMENT, re.MULTILINE)
        for field in fields:
            assert f"`{field}`" not in row or field in family.help, family.name


def test_reasons_are_closed_and_there_from_the_start() -> None:
    polls, _, requests = DOCUMENT.partition("Reasons of a failed poll")[2].partition("Reasons of a refused request")
    assert REASONS.findall(requests) == list(own.HTTP_REFUSALS)
    told = REASONS.findall(polls)
    assert told == [str(reason) for reason in Reason]
    fresh = Model(Config((environment(),)), lambda request, _now: running(request.id))
    fresh.run(0.01)
    for reason in told:
        assert fresh.samples("knock_exporter_poll_failures_total", reason=reason) == [0]
    assert len(fresh.samples("knock_exporter_poll_failures_total")) == len(told)
    assert fresh.samples("knock_exporter_http_refused_total") == [0] * len(own.HTTP_REFUSALS)


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        (
            "knock_bulk_operations_queue_duration_seconds",
            (1, 5, 15, 30, 60, 120, 300, 900, 1800, 3600, 10800, 43200, 86400),
        ),
        (
            "knock_bulk_operations_run_duration_seconds",
            (1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 259200),
        ),
        ("knock_exporter_poll_delay_seconds", (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900)),
        ("knock_exporter_api_request_duration_seconds", (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)),
        ("knock_exporter_scrape_duration_seconds", (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)),
    ],
)
def test_histograms_have_the_buckets_that_queries_name(full: Model, name: str, bounds: tuple[float, ...]) -> None:
    found = set(re.findall(rf'^{name}_bucket{{.*le="([^"]+)"', full.metrics(), re.MULTILINE))
    assert {float(bound) for bound in found} == {*bounds, float("inf")}


def test_code_labels_are_bounded() -> None:
    codes = {own.code_label(code) for code in (None, *range(100, 1000))}
    known = (200, 301, 302, 307, 308, 400, 401, 403, 404, 408, 409, 422, 429, 500, 502, 503, 504)
    assert codes == {"none", *map(str, known), *(f"{number}xx" for number in range(1, 10))}


def test_the_process_tells_of_itself() -> None:
    registry = own.Activity().registry
    found = {family.name for family in registry.collect()}
    assert found >= {"process_cpu_seconds", "python_info", "python_gc_objects_collected"}
