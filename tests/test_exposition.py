"""How /metrics is written: rendered once, joined per scrape, the same as prometheus-client would write it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model import WALL, Model, environment, ids, running
from prometheus_client import CollectorRegistry, Gauge, Metric, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.config import Config, ListedOperation
from exporter.errors import KnockError, Reason, Unreachable
from exporter.metrics.exposition import (
    Format,
    Lines,
    RenderedRows,
    Rows,
    View,
    accepts_gzip,
    choose_format,
    encode_labels,
    knock_part,
    knock_size,
)
from exporter.operation import Operation, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from exporter.tracking.messages import PollRequest
    from exporter.tracking.transitions import Moment

# The format asked for.

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
VICTORIA = "text/plain;version=0.0.4;q=1,*/*;q=0.1"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (PROMETHEUS_2, Format.OPENMETRICS),
        (PROMETHEUS_3, Format.OPENMETRICS),
        (VICTORIA, Format.TEXT),
        (BROWSER, Format.TEXT),
        ("", Format.TEXT),
        ("*/*", Format.TEXT),
        ("application/openmetrics-text", Format.OPENMETRICS),
        ("Application/OpenMetrics-Text; Version=1.0.0", Format.OPENMETRICS),
        ("application/openmetrics-text;version=0.0.1", Format.OPENMETRICS),
        ("application/openmetrics-text;version=2.0.0", Format.TEXT),
        ("application/openmetrics-text;version=", Format.TEXT),
        ("application/openmetrics-text;q=0", Format.TEXT),
        ("application/openmetrics-text;version=1.0.0;q=0,text/plain;q=0", Format.TEXT),
        ("application/openmetrics-text;q=0.5,text/plain;q=0.5", Format.TEXT),
        ("application/openmetrics-text;q=0.4,*/*;q=0.5", Format.TEXT),
        ("application/openmetrics-text;q=-1", Format.TEXT),
        ("application/openmetrics-text;q=nan", Format.TEXT),
        ("application/openmetrics-text;q=high", Format.TEXT),
        ("application/openmetrics-text;q", Format.TEXT),
        (",;=;q=,,;;q=1;=", Format.TEXT),
        ("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited", Format.TEXT),
        ("image/png", Format.TEXT),
    ],
)
def test_the_format_is_the_one_preferred_and_text_when_in_doubt(accept: str, form: Format) -> None:
    assert choose_format(accept) is form


@given(st.one_of(st.text(), st.text(alphabet="application/openmetrics-text;version=1.0.0q*, ", max_size=80)))
def test_no_header_is_too_odd(accept: str) -> None:
    assert choose_format(accept) in Format


def test_the_content_types_name_their_versions() -> None:
    assert Format.TEXT.content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert Format.OPENMETRICS.content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"


# Labels.


@pytest.mark.parametrize("value", ["plain", 'a "quote"', "back\\slash", "two\nlines", "käse 🧀", "", "a}b{c", "\\n"])
def test_labels_are_escaped_as_prometheus_client_does(value: str) -> None:
    registry = CollectorRegistry()
    Gauge("g", "", ["one", "two"], registry=registry).labels(value, "2").set(1)
    ours = f"g{{{encode_labels({'one': value, 'two': '2'})}}} 1.0\n"
    assert generate_latest(registry).decode().endswith(ours)
    assert Format.OPENMETRICS.encode(registry).decode().endswith(f"{ours}# EOF\n")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_labels_come_back_as_they_were(value: str) -> None:
    text = f"# TYPE g gauge\ng{{{encode_labels({'one': value})}}} 1.0\n# EOF\n"
    (family,) = parse_openmetrics(text)  # type: ignore[no-untyped-call] # not typed by them
    assert family.samples[0].labels == {"one": value}


# Rendered rows.


CHANGES = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 600), st.one_of(st.none(), st.integers(0, 9))),
        st.just("publish"),
        st.tuples(st.just("range"), st.integers(1, 600)),
    ),
    max_size=30,
)


@given(CHANGES)
def test_rendered_rows_hold_what_a_dict_would(changes: list[object]) -> None:
    rendered, naive, published = RenderedRows(), dict[int, bytes](), list[tuple[Rows, list[Lines]]]()

    def put(key: int, value: int | None) -> None:
        if value is None:
            rendered.drop(key)
            naive.pop(key, None)
        else:
            naive[key] = b"%d=%d" % (key, value)
            rendered.put(key, (naive[key],))

    for change in [*changes, "publish"]:
        match change:
            case "publish":
                rows = rendered.publish()
                assert [lines[0] for lines in rows] == list(naive.values())
                assert rendered.size == sum(map(len, naive.values()))
                published.append((rows, list(rows)))
            case ("range", int(count)):
                for key in range(count):
                    put(key, 0)
            case (int(key), int(value)):
                put(key, value)
            case (int(key), None):
                put(key, None)
    assert all(list(kept) == rows for kept, rows in published)


# The whole.

HOSTILE = 'a "quote", a back\\slash, 🧀'


def lively() -> Model:
    operations = ids(8)
    listed = tuple(
        ListedOperation(each, HOSTILE if number % 2 else "default", (("team", HOSTILE),))
        for number, each in enumerate(operations)
    )

    def knock(request: PollRequest, _now: Moment) -> Operation | KnockError:
        number = operations.index(request.id)
        if number == 0:
            return Unreachable(Reason.TIMEOUT, "slow")
        status = list(Status)[number % 5]
        times = {"started_at": WALL - 400, "completed_at": WALL - 0.25} if status.final else {}
        return running(request.id, status=status, name=HOSTILE, rows_processed=number, error_items=number, **times)

    config = Config((replace(environment(HOSTILE), operations=listed),), ("team", "empty"))
    model = Model(config, knock)
    model.run(30)
    return model


class Parsed:
    """Parsed families as a collector, so that prometheus-client writes them again."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def lines(text: str) -> list[str]:
    return sorted(line for line in text.splitlines() if not line.startswith("#"))


PARSERS: dict[Format, Callable[[str], Iterable[Metric]]] = {
    Format.TEXT: parse_text,
    Format.OPENMETRICS: parse_openmetrics,
}


@pytest.mark.parametrize("form", Format)
def test_the_joined_text_is_what_prometheus_client_would_write(form: Format) -> None:
    text = lively().metrics(form)
    again = form.encode(Parsed(PARSERS[form](text))).decode()
    assert [_sorted_labels(line) for line in text.splitlines()] == [_sorted_labels(line) for line in again.splitlines()]


def _sorted_labels(line: str) -> str:
    # prometheus-client sorts labels, ours stand by level; both are the same to every reader.
    if line.startswith("#") or "{" not in line:
        return line
    name, _, rest = line.partition("{")
    labels, _, value = rest.rpartition("}")
    (family,) = parse_text(f"x{{{labels}}} 1\n")
    return f"{name}{sorted(family.samples[0].labels.items())}{value}"


def test_openmetrics_ends_once() -> None:
    text = lively().metrics(Format.OPENMETRICS)
    assert text.endswith("\n# EOF\n")
    assert text.count("# EOF") == 1
    assert "# EOF" not in lively().metrics(Format.TEXT)


def test_both_formats_say_the_same() -> None:
    model = lively()
    text, open_text = model.metrics(Format.TEXT), model.metrics(Format.OPENMETRICS)
    assert lines(text) == lines(open_text)
    assert "_created" not in text


@pytest.mark.parametrize("form", Format)
def test_no_series_and_no_family_stands_twice(form: Format) -> None:
    text = lively().metrics(form).splitlines()
    names = [line.split()[2] for line in text if line.startswith("# TYPE")]
    series = [line.rpartition(" ")[0] for line in text if not line.startswith("#")]
    assert len(names) == len(set(names))
    assert len(series) == len(set(series))


def test_a_view_once_published_stays_as_it_was() -> None:
    model = lively()
    view = model.views[1]
    before = list(knock_part(view, Format.TEXT))
    model.run(300)
    assert list(knock_part(view, Format.TEXT)) == before
    assert list(knock_part(model.views[-1], Format.TEXT)) != before


@pytest.mark.parametrize("form", Format)
def test_the_size_is_known_before_anything_is_joined(form: Format) -> None:
    for view in (View(), *lively().views):
        assert knock_size(view, form) == sum(map(len, knock_part(view, form)))


@pytest.mark.parametrize(
    ("header", "taken"),
    [("gzip", True), ("deflate, gzip;q=0.5", True), ("gzip;q=0", False), ("identity", False), ("", False)],
)
def test_gzip_is_sent_only_to_who_takes_it(header: str, *, taken: bool) -> None:
    assert accepts_gzip(header) is taken
