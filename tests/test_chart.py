"""The geometry of an operation's chart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.tracking.history import Point
from exporter.web.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TIMES_MOST, TOP, WIDTH, draw

NOON = 1_800_000_000.0  # 08:00 UTC


def places(line: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in line.split())]


def test_less_than_two_points_in_time_are_no_chart() -> None:
    assert draw(()) is None
    assert draw((Point(1.0, 1, 1),)) is None
    assert draw((Point(2.0, 1, 1), Point(1.0, 1, 1))) is None, "the wall clock was set back"


def test_a_line_goes_from_corner_to_corner() -> None:
    drawn = draw((Point(NOON, 0, 0), Point(NOON + 60, 1000, 0)))
    assert drawn is not None
    assert [places(each) for each in drawn.processed] == [[(LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, TOP)]]
    assert [places(each) for each in drawn.errors] == [[(LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, HEIGHT - BOTTOM)]]
    assert [each.label for each in drawn.up] == ["0", "500", "1,000"]
    assert [each.label for each in drawn.across][:2] == ["08:00:00", "08:00:10"]


def test_what_is_not_known_is_a_gap_and_not_a_zero() -> None:
    counts = (1, 2, None, 3, None, 4, 5)
    drawn = draw([Point(NOON + number, count, None) for number, count in enumerate(counts)])
    assert drawn is not None
    assert [len(places(each)) for each in drawn.processed] == [2, 2]
    assert drawn.errors == ()


@pytest.mark.parametrize(
    ("seconds", "labels"),
    [
        (4 * 3600, ["08:00", "09:00", "10:00", "11:00", "12:00"]),
        (1800, ["08:00", "08:05", "08:10", "08:15", "08:20", "08:25", "08:30"]),
        (20 * 86400, ["01-18", "01-22", "01-26", "01-30"]),
    ],
)
def test_times_are_round_and_few(seconds: float, labels: list[str]) -> None:
    drawn = draw((Point(NOON, 0, 0), Point(NOON + seconds, 1, 0)))
    assert drawn is not None
    assert [each.label for each in drawn.across][: len(labels)] == labels


@given(
    st.lists(
        st.tuples(st.floats(0.001, 1e6), st.none() | st.integers(0, 2**53), st.none() | st.integers(0, 2**53)),
        min_size=2,
        max_size=60,
    )
)
def test_everything_stays_in_its_box(steps: list[tuple[float, int | None, int | None]]) -> None:
    at, points = NOON, []
    for seconds, processed, errors in steps:
        at += seconds
        points.append(Point(at, processed, errors))
    drawn = draw(points)
    assert drawn is not None
    for line in (*drawn.processed, *drawn.errors):
        assert all(LEFT <= x <= WIDTH - RIGHT and TOP - 0.1 <= y <= HEIGHT - BOTTOM for x, y in places(line))
    assert 2 <= len(drawn.up) <= 6
    assert len(drawn.across) <= TIMES_MOST + 1
    assert all(LEFT <= each.at <= WIDTH - RIGHT + 0.1 for each in drawn.across)
