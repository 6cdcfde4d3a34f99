"""The geometry of an operation's chart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.chart import ERRORS, LEFT, RIGHT, ROWS, TIMES_MOST, Chart, ChartPoint, Panel, draw
from exporter.tracking.history import HistoryPoint

NOON = 1_800_000_000.0  # 08:00 UTC
COUNTS = st.none() | st.integers(0, 2**53)


def drawn(points: list[HistoryPoint], estimated: int | None = None) -> Chart:
    chart = draw(points, estimated)
    assert chart is not None
    return chart


def places(line: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in line.split())]


@pytest.mark.parametrize(
    "points", [[], [HistoryPoint(NOON, 1, 1)], [HistoryPoint(NOON, 1, 1), HistoryPoint(NOON, 2, 1)]]
)
def test_less_than_two_points_in_time_are_no_chart(points: list[HistoryPoint]) -> None:
    assert draw(points) is None


def test_a_line_goes_from_corner_to_corner_and_ends_in_a_dot() -> None:
    chart = drawn([HistoryPoint(NOON, 0, 0), HistoryPoint(NOON + 60, 1000, 0)])
    assert [places(each) for each in chart.rows.lines] == [[(LEFT, ROWS.bottom), (RIGHT, ROWS.top)]]
    assert chart.rows.dots == (ChartPoint(RIGHT, ROWS.top),)
    assert [each.label for each in chart.rows.ticks] == ["0", "500", "1k"]
    assert [each.label for each in chart.times][:2] == ["08:00:00", "08:00:10"]


def test_a_few_errors_among_many_rows_have_an_axis_of_their_own() -> None:
    chart = drawn([HistoryPoint(NOON, 0, 0), HistoryPoint(NOON + 60, 10**6, 4)])
    assert places(chart.errors.lines[0])[-1] == (RIGHT, ERRORS.top)
    assert [each.label for each in chart.errors.ticks] == ["0", "2", "4"]


def test_without_a_single_error_the_line_lies_on_the_axis() -> None:
    chart = drawn([HistoryPoint(NOON, 5, 0), HistoryPoint(NOON + 60, 6, 0)])
    assert places(chart.errors.lines[0]) == [(LEFT, ERRORS.bottom), (RIGHT, ERRORS.bottom)]


def test_what_is_not_known_is_a_gap_and_not_a_zero() -> None:
    counts = (1, 2, None, 3, None, 4, 5)
    chart = drawn([HistoryPoint(NOON + number, count, None) for number, count in enumerate(counts)])
    assert [len(places(each)) for each in chart.rows.lines] == [2, 2]
    assert len(chart.rows.dots) == 2, "the lonely one, and the last"
    assert (chart.errors.lines, chart.errors.dots) == ((), ())


@pytest.mark.parametrize(
    ("estimated", "top", "is_drawn"),
    [(None, "100", False), (0, "100", False), (200, "200", True), (80, "100", True), (10_000, "100", False)],
)
def test_the_estimate_is_drawn_where_it_does_not_press_the_line_flat(
    estimated: int | None, top: str, *, is_drawn: bool
) -> None:
    rows = drawn([HistoryPoint(NOON, 0, 0), HistoryPoint(NOON + 60, 100, 0)], estimated).rows
    assert (rows.estimate is not None) is is_drawn
    assert rows.ticks[-1].label == top


def test_a_flat_line_keeps_the_estimate() -> None:
    rows = drawn([HistoryPoint(NOON, 7, 0), HistoryPoint(NOON + 60, 7, 0)], 1000).rows
    assert rows.estimate == ROWS.top


@pytest.mark.parametrize(
    ("seconds", "labels"),
    [
        (4 * 3600, ["08:00", "09:00", "10:00", "11:00", "12:00"]),
        (1800, ["08:00", "08:05", "08:10", "08:15", "08:20", "08:25", "08:30"]),
        (20 * 86400, ["01-18", "01-22", "01-26", "01-30"]),
    ],
)
def test_times_are_round_and_few(seconds: float, labels: list[str]) -> None:
    chart = drawn([HistoryPoint(NOON, 0, 0), HistoryPoint(NOON + seconds, 1, 0)])
    assert [each.label for each in chart.times][: len(labels)] == labels


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), COUNTS, COUNTS), min_size=2, max_size=60), COUNTS)
def test_everything_stays_in_its_box_also_when_clocks_are_set(
    steps: list[tuple[float, int | None, int | None]], estimated: int | None
) -> None:
    chart = draw([HistoryPoint(NOON + at, processed, errors) for at, processed, errors in steps], estimated)
    if chart is None:
        assert len({NOON + at for at, *_ in steps}) == 1
        return
    for plot, panel in ((chart.rows, ROWS), (chart.errors, ERRORS)):
        assert all(is_inside(panel, *place) for line in plot.lines for place in places(line))
        assert all(is_inside(panel, *place) for place in plot.dots)
        assert 2 <= len(plot.ticks) <= panel.steps + 1
    assert chart.rows.estimate is None or is_inside(ROWS, LEFT, chart.rows.estimate)
    assert len(chart.times) <= TIMES_MOST + 1
    assert all(is_inside(ERRORS, each.at, ERRORS.bottom) for each in chart.times)


def is_inside(panel: Panel, x: float, y: float) -> bool:
    return LEFT - 0.1 <= x <= RIGHT + 0.1 and panel.top - 0.1 <= y <= panel.bottom + 0.1
