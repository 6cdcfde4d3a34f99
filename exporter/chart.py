"""The chart of an operation: rows processed and errors over its polls, as the geometry of an SVG. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from exporter.wording import short

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exporter.tracking.history import HistoryPoint

WIDTH, HEIGHT = 720, 348
LEFT, RIGHT = 64, 692
ESTIMATE_SHARE = 0.2  # an estimate is drawn once so much of it is reached; sooner it would press the line flat
TIME_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)  # seconds
TIMES_MOST = 6
MINUTE, DAY = 60, 86400


class Tick(NamedTuple):
    """A mark on an axis: where, and what it says."""

    at: float
    label: str


class ChartPoint(NamedTuple):
    """A point on the paper."""

    x: float
    y: float


class Panel(NamedTuple):
    """Where a plot is drawn, and into how many steps its axis is divided at most."""

    top: float
    bottom: float
    steps: int


ROWS, ERRORS = Panel(34, 200, 4), Panel(250, 312, 2)


@dataclass(frozen=True, slots=True)
class Plot:
    """One count over time; `lines` are the points of polylines, a stretch each, `dots` points without neighbours.

    The last point is a dot too. `estimate` is where a line for the estimate goes (None: there is none).
    """

    panel: Panel
    lines: tuple[str, ...]
    dots: tuple[ChartPoint, ...]
    ticks: tuple[Tick, ...]
    estimate: float | None = None


@dataclass(frozen=True, slots=True)
class Chart:
    """Two plots, one above the other, in a box of WIDTH by HEIGHT; `times` are marks on the axis that they share."""

    rows: Plot
    errors: Plot
    times: tuple[Tick, ...]


def draw(points: Sequence[HistoryPoint], estimated: int | None = None) -> Chart | None:
    """Draw the chart; None where there are less than two points in time."""
    moments = [each.at for each in points]
    if not moments or max(moments) <= min(moments):
        return None
    begin, end = min(moments), max(moments)  # not the first and the last: clocks are set

    def x(at: float) -> float:
        return LEFT + (at - begin) / (end - begin) * (RIGHT - LEFT)

    across = [x(each) for each in moments]
    processed = [each.processed for each in points]
    most = max((each for each in processed if each is not None), default=0)
    is_flat = len({each for each in processed if each is not None}) == 1  # there is nothing to press flat
    shown = estimated if estimated and (is_flat or most >= ESTIMATE_SHARE * estimated) else None
    return Chart(
        _plot(ROWS, across, processed, shown),
        _plot(ERRORS, across, [each.errors for each in points], None),
        tuple(Tick(x(at), label) for at, label in _times(begin, end)),
    )


def _plot(panel: Panel, across: Sequence[float], counts: Sequence[int | None], estimated: int | None) -> Plot:
    most = max((each for each in (*counts, estimated) if each is not None), default=0)
    step = _nice(most / panel.steps)
    top = step * max(1, math.ceil(most / step))

    def y(count: float) -> float:
        return panel.bottom - count / top * (panel.bottom - panel.top)

    stretches = _stretches(across, counts, y)
    return Plot(
        panel,
        tuple(" ".join(f"{place.x:.1f},{place.y:.1f}" for place in each) for each in stretches if len(each) > 1),
        tuple(each[-1] for each in stretches if len(each) == 1 or each is stretches[-1]),
        tuple(Tick(y(count), short(count)) for count in range(0, top + 1, step)),
        None if estimated is None else y(estimated),
    )


def _nice(least: float) -> int:
    """Return the smallest step of 1, 2 or 5 times a power of ten that is not below `least`."""
    if least <= 1:
        return 1
    unit = 10 ** math.floor(math.log10(least))
    return int(next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= least))


def _stretches(
    across: Sequence[float], counts: Sequence[int | None], y: Callable[[float], float]
) -> list[list[ChartPoint]]:
    """Split a line where a count is not known."""
    found: list[list[ChartPoint]] = [[]]
    for x, count in zip(across, counts, strict=True):
        if count is None:
            found.append([])
        else:
            found[-1].append(ChartPoint(x, y(count)))
    return [each for each in found if each]


def _times(begin: float, end: float) -> list[tuple[float, str]]:
    length = end - begin
    step = next((each for each in TIME_STEPS if length / each <= TIMES_MOST), 0)
    if not step:
        step = DAY * math.ceil(length / DAY / TIMES_MOST)
    form = "%H:%M:%S" if step < MINUTE else "%H:%M" if step < DAY else "%m-%d"
    numbers = range(math.ceil(begin / step), int(end / step) + 1)
    return [(number * step, f"{datetime.fromtimestamp(number * step, UTC):{form}}") for number in numbers]
