"""What judges hours of a real exporter: growth is found, what wavers is not, and the picture is to scale."""

from __future__ import annotations

import math
from xml.etree import ElementTree as ET

import pytest
from endurance import BOUNDS, Sample, growth
from line_charts import HEIGHT, Heading, Line, draw

SECONDS, STEP = 3600, 15


def samples(**an_hour: float) -> list[Sample]:
    """Return those of an hour in which figures waver, and these rise so much."""
    steady = Sample(0.0, 90.0, 40.0, 30.0, 9.0, 5000.0, 15.0, 195.0, 3.0, 0.4)
    return [
        steady._replace(
            at=float(at),
            **{
                name: getattr(steady, name) * (1 + 0.02 * math.sin(at)) + an_hour.get(name, 0.0) * at / SECONDS
                for name in BOUNDS
            },
        )
        for at in range(0, SECONDS, STEP)
    ]


def too_much(kept: list[Sample]) -> list[str]:
    return [bound.name for bound, _, rose in growth(kept) if rose > bound.allows(SECONDS)]


def test_what_wavers_does_not_grow() -> None:
    assert too_much(samples()) == []


@pytest.mark.parametrize("name", [each for each in BOUNDS if each != "polls"])
def test_growth_is_found(name: str) -> None:
    bound = BOUNDS[name]
    assert too_much(samples(**{name: 1.2 * bound.allows(SECONDS)})) == [bound.name]
    assert too_much(samples(**{name: 0.8 * bound.allows(SECONDS)})) == []


def test_a_line_is_drawn_to_scale_and_broken_where_nothing_is_known() -> None:
    picture = ET.fromstring(  # noqa: S314 - our own
        draw(Heading("<a>", "b", "min", 2), [0, 1, 2, 3, 4], [Line("c", "s", [0, 4, None, 2, 2])], [2])
    )
    lines = picture.findall("{*}polyline")
    heights = [[float(point.partition(",")[2]) for point in each.get("points", "").split()] for each in lines]
    [[zero, four], [two, _]] = heights
    assert [zero - four, zero - two] == [HEIGHT, HEIGHT / 2]
    assert picture.findtext("{*}title") == "<a>"
    assert [each.text for each in picture.findall("{*}text")][-3:] == ["0 min", "2 min", "4 min"]
    assert len([each for each in picture.findall("{*}line") if each.get("class") == "mark"]) == 1
