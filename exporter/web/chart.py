"""The chart of an operation: rows processed and errors over its polls, as the geometry of an SVG. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from exporter.wording import number

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from exporter.tracking.history import Point

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 84, 16, 12, 34
Y_STEPS = 4
TIME_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)  # seconds
TIMES_MOST = 6
MINUTE, DAY = 60, 86400


class Tick(NamedTuple):
    """A mark on an axis: where, and what it says."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Coordinates in a box of WIDTH by HEIGHT; `processed` and `errors` are point lists of polylines, one a stretch."""

    processed: tuple[str, ...]
    errors: tuple[str, ...]
    across: tuple[Tick, ...]  # times, UTC
    up: tuple[Tick, ...]  # rows


def draw(points: Sequence[Point]) -> Chart | None:
    """Draw the chart; None where there are less than two points in time."""
    if not points or points[-1].at <= points[0].at:
        return None
    begin, end = points[0].at, points[-1].at
    most = max((count for each in points for count in (each.processed, each.errors) if count is not None), default=0)
    step = _nice(most / Y_STEPS)
    top = step * max(1, math.ceil(most / step))

    def x(at: float) -> float:
        return LEFT + (at - begin) / (end - begin) * (WIDTH - LEFT - RIGHT)

    def y(rows: float) -> float:
        return HEIGHT - BOTTOM - rows / top * (HEIGHT - TOP - BOTTOM)

    def lines(counts: Iterable[int | None]) -> tuple[str, ...]:
        places = [None if count is None else (x(each.at), y(count)) for each, count in zip(points, counts, strict=True)]
        return tuple(" ".join(f"{a:.1f},{b:.1f}" for a, b in stretch) for stretch in _stretches(places))

    return Chart(
        lines(each.processed for each in points),
        lines(each.errors for each in points),
        tuple(Tick(x(at), label) for at, label in _times(begin, end)),
        tuple(Tick(y(rows), number(rows)) for rows in range(0, top + 1, step)),
    )


def _nice(least: float) -> int:
    """Return the smallest step of 1, 2 or 5 times a power of ten that is not below `least`."""
    if least <= 1:
        return 1
    unit = 10 ** math.floor(math.log10(least))
    return int(next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= least))


def _stretches(places: Iterable[tuple[float, float] | None]) -> list[list[tuple[float, float]]]:
    """Split a line where a count is not known; a single point is no line."""
    found: list[list[tuple[float, float]]] = [[]]
    for place in places:
        if place is None:
            found.append([])
        else:
            found[-1].append(place)
    return [each for each in found if len(each) > 1]


def _times(begin: float, end: float) -> list[tuple[float, str]]:
    length = end - begin
    step = next((each for each in TIME_STEPS if length / each <= TIMES_MOST), 0)
    if not step:
        step = DAY * math.ceil(length / DAY / TIMES_MOST)
    form = "%m-%d" if step % DAY == 0 else "%H:%M:%S" if step % MINUTE else "%H:%M"
    first = math.ceil(begin / step)
    return [
        (each * step, f"{datetime.fromtimestamp(each * step, UTC):{form}}")
        for each in range(first, int(end / step) + 1)
    ]
