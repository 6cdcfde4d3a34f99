"""Numbers and times as people read them."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

NOT_KNOWN = "not known"


def number(value: float | None) -> str:
    """Write a count."""
    return NOT_KNOWN if value is None else f"{value:,.0f}"


def counted(value: float | None, noun: str, plural: str = "") -> str:
    """Write a count and what is counted, in the singular or the plural (with an s, where it is not given)."""
    return f"{number(value)} {noun if value == 1 else plural or f'{noun}s'}"


def percent(share: float) -> str:
    """Write a share (0 to 1), rounded down: 100% is all."""
    return f"{math.floor(min(share, 1) * 100)}%"


def short(count: int) -> str:
    """Write a count in little room: 1.5k, 20M."""
    for power, prefix in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if count >= 10**power:
            return f"{count / 10**power:.3g}{prefix}"
    return str(count)


def visible(text: str) -> str:
    """Replace what a terminal would obey, or could not write: much of what is shown is somebody else's text."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def cut(text: str, most: int) -> str:
    """Return a text, or so many characters of it, the last an ellipsis."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def first_few(names: Collection[str], most: int = 5) -> str:
    """Write the first of some names, and how many more there are."""
    more = [f"and {len(names) - most:,} more"] if len(names) > most else []
    return ", ".join([*islice(names, most), *more])


def speed(rows: float) -> str:
    """Write rows a second: whole ones, and where there are few a little more."""
    return f"{rows:,.0f}" if rows >= 10 or rows == 0 else f"{rows:.2g}"  # noqa: PLR2004 - two digits are enough


def span(seconds: float) -> str:
    """Write a duration in its two largest units."""
    whole = max(0, round(seconds))
    units = (("d", whole // 86400), ("h", whole // 3600 % 24), ("m", whole // 60 % 60), ("s", whole % 60))
    parts = [f"{count}{unit}" for unit, count in units if count]
    return " ".join(parts[:2]) or "0s"


def moment(seconds: float) -> str:
    """Write a time (Unix seconds) in UTC."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError):
        return "out of range"


def machine_moment(seconds: float) -> str:
    """Write a time (Unix seconds) as RFC 3339 has it; empty where it is out of range."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (ValueError, OverflowError):
        return ""


def progress(processed: int | None, estimated: int | None) -> str:
    """Write how far it is: honest where there is no estimate, or where it is passed."""
    if processed is None:
        return NOT_KNOWN if estimated is None else f"of {number(estimated)} rows, {NOT_KNOWN} how many"
    if not estimated:
        return f"{number(processed)} rows, {'no estimate' if estimated is None else 'estimate 0'}"
    if processed > estimated:
        return f"{number(processed)} rows, estimate of {number(estimated)} passed"
    return f"{number(processed)} of {number(estimated)} rows"
