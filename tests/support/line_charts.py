"""Figures over time as an SVG: one small chart for each, one above the other, on one axis of time. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, LEFT, RIGHT = 880, 230, 830
TOP, HEIGHT, GAP = 64, 62, 20
STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 180, 240)  # of the axis of time, in its unit
TIMES_MOST = 10
STYLE = """
    text { fill: #1f2328; } .small { font-size: 12px; fill: #57606a; } .bold { font-weight: 600; }
    .line { fill: none; stroke: #0969da; stroke-width: 1.5; }
    .axis { stroke: #d0d7de; } .mark { stroke: #cf222e; stroke-opacity: .5; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3; } .small { fill: #9ea7b3; } .line { stroke: #58a6ff; } .axis { stroke: #30363d; }
      .mark { stroke: #ff7b72; }
    }"""


class Heading(NamedTuple):
    """What a picture says of itself, and the unit of its axis of time, with a step unless one is to be found."""

    title: str
    note: str
    unit: str
    step: int = 0


class Line(NamedTuple):
    """A figure over time; None where it is not known. A line is broken there."""

    name: str
    unit: str
    values: Sequence[float | None]


def draw(heading: Heading, times: Sequence[float], lines: Sequence[Line], marks: Sequence[float]) -> str:
    """Draw lines over `times`; `marks` are moments that are drawn through all charts."""
    title, note, unit = map(escape, heading[:3])
    end = max(times)
    bottom = TOP + len(lines) * (HEIGHT + GAP)

    def x(at: float) -> float:
        return LEFT + at / end * (RIGHT - LEFT)

    parts = [f'<line class="mark" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{TOP}" y2="{bottom - GAP}"/>' for at in marks]
    for number, line in enumerate(lines):
        parts += _chart(line, [x(each) for each in times], TOP + number * (HEIGHT + GAP))
    step = heading.step or next((each for each in STEPS if end / each <= TIMES_MOST), math.ceil(end))
    for at in range(0, int(end) + 1, step):
        parts.append(f'<text class="small" text-anchor="middle" x="{x(at):.1f}" y="{bottom}">{at} {unit}</text>')
    body = "\n  ".join(parts)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 16}" role="img" \
aria-labelledby="t d" font-family="system-ui, sans-serif" font-size="15">
  <title id="t">{title}</title>
  <desc id="d">{note}</desc>
  <style>{STYLE}
  </style>
  <text class="bold" x="20" y="24">{title}</text>
  <text class="small" x="20" y="44">{note}</text>
  {body}
</svg>
"""


def _chart(line: Line, across: Sequence[float], top: float) -> list[str]:
    """Draw one figure: its name and highest value on the left, from 0 upwards."""
    most = max((each for each in line.values if each is not None), default=0.0)
    bottom = top + HEIGHT
    highest = f"highest: {most:,.{0 if most >= 20 else 2}f} {escape(line.unit)}"
    points: list[list[str]] = [[]]
    for at, value in zip(across, line.values, strict=True):
        if value is None:
            points.append([])
        else:
            points[-1].append(f"{at:.1f},{bottom - value / (most or 1.0) * HEIGHT:.1f}")
    return [
        f'<text x="20" y="{top + 26}">{escape(line.name)}</text>',
        f'<text class="small" x="20" y="{top + 44}">{highest}</text>',
        f'<line class="axis" x1="{LEFT}" x2="{RIGHT}" y1="{bottom}" y2="{bottom}"/>',
        *(f'<polyline class="line" points="{" ".join(each)}"/>' for each in points if len(each) > 1),
    ]
