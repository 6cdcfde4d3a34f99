"""What became of an operation over its polls: bounded, thinned, and true at both ends."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.operation import Operation, Status
from exporter.tracking.history import (
    FAILED_POLLS_MOST,
    GOOD_POLLS_MOST,
    NO_HISTORY,
    POINTS_MOST,
    History,
    HistoryPoint,
    PollFailure,
    plotted,
    polled,
    without_points,
)

A = "123e4567-e89b-12d3-a456-426614174000"
RUNNING = Operation(A, Status.PROCESSING)
TIMEOUT = PollFailure("timeout", "no answer within 10 s")


def line(*counts: tuple[float, int | None], errors: int | None = None) -> History:
    history = NO_HISTORY
    for at, processed in counts:
        history = plotted(history, at, replace(RUNNING, rows_processed=processed, errors=errors))
    return history


def test_points_are_kept_as_they_came() -> None:
    assert line((1.0, 5), (2.5, None)).points == (HistoryPoint(1.0, 5, None), HistoryPoint(2.5, None, None))
    assert line((1.0, 0), errors=0).points == (HistoryPoint(1.0, 0, 0),)


def test_a_stretch_without_change_has_two_points() -> None:
    assert line((1, 5), (2, 5), (3, 5), (4, 5), (5, 6)).points == (
        HistoryPoint(1, 5, None),
        HistoryPoint(4, 5, None),
        HistoryPoint(5, 6, None),
    )


@given(st.lists(st.tuples(st.floats(0.1, 100), st.integers(0, 1000)), min_size=1, max_size=400))
def test_a_line_is_bounded_in_order_and_keeps_its_ends(steps: list[tuple[float, int]]) -> None:
    at, processed, counts = 0.0, 0, []
    for seconds, rows in steps:
        at, processed = at + seconds, processed + rows
        counts.append((at, processed))
    history = line(*counts)
    points = history.points
    assert len(points) <= POINTS_MOST
    assert points[0] == HistoryPoint(*counts[0], None)
    assert points[-1] == HistoryPoint(*counts[-1], None)
    assert [each.at for each in points] == sorted({each.at for each in points})
    assert {(each.at, each.processed) for each in points} <= set(counts)
    gaps = [later.at - earlier.at for earlier, later in pairwise(points[:-1])]
    assert all(gap >= history.spacing / 4 for gap in gaps)


@pytest.mark.parametrize("seconds", [200, 1000, 30_000])
def test_a_long_life_is_thinned_evenly(seconds: int) -> None:
    points = line(*((float(second), second) for second in range(seconds))).points
    assert (points[0].at, points[-1].at) == (0, seconds - 1)
    assert len(points) > POINTS_MOST // 3
    gaps = [later.at - earlier.at for earlier, later in pairwise(points[:-1])]
    assert max(gaps) <= 4 * min(gaps)


def test_the_rate_looks_back_two_minutes_or_at_the_last_two_points() -> None:
    assert line((0, 0)).rate is None
    assert line((0, None), (1, None)).rate is None
    assert line((0, 0), (500, 1000)).rate == 2.0
    assert line((0, 0), (500, 1000), (560, 1600), (620, 2200)).rate == 10.0
    assert line((0, 0), (380, 5), (440, 605), (500, 1205)).rate == 10.0
    assert line((0, 0), (379.5, 500), (440, 605), (500, 1205)).rate == 10.0
    assert line((0, 9), (5, 9), (10, 9)).rate == 0.0
    assert line((0, 9), (5, 3)).rate == 0.0, "a count that falls is not a speed"
    assert line((5, 1), (5, 3)).rate is None
    assert line((5, 1), (3, 3)).rate is None, "the wall clock was set back"


def test_failed_polls_are_kept_longer_than_good_ones() -> None:
    history = NO_HISTORY
    for number in range(100):
        history = polled(history, float(number), 0.25, TIMEOUT if number < 50 and number % 2 else None)
    polls = history.polls
    failed = [each.at for each in polls if each.trouble]
    assert failed == [float(number) for number in range(31, 50, 2)]
    assert len(failed) == FAILED_POLLS_MOST
    assert [each.at for each in polls if each.trouble is None] == [95.0, 96.0, 97.0, 98.0, 99.0]
    assert len(polls) == FAILED_POLLS_MOST + GOOD_POLLS_MOST
    assert [each.at for each in polls] == sorted(each.at for each in polls)
    assert {each.seconds for each in polls} == {0.25}


def test_equal_troubles_are_held_once() -> None:
    first = polled(NO_HISTORY, 1.0, 1.0, PollFailure("tls", "expired"))
    second = polled(NO_HISTORY, 2.0, 1.0, PollFailure("tls", "expired"))
    assert first.troubles[0] is second.troubles[0]


def test_what_ended_well_keeps_its_polls_and_no_points() -> None:
    history = without_points(polled(line((1, 1), (2, 2)), 2.0, 0.1, None))
    assert history.points == ()
    assert len(history.polls) == 1
