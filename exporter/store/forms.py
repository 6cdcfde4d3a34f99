"""How values of each kind are written as JSON, and checked when they are read."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from exporter.operation import MAX_COUNT
from exporter.tracking.record import Moment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from enum import StrEnum

    from exporter.store.ages import Ages

    Document = dict[str, Any]

MOMENT_PARTS = 2


class Unreadable(ValueError):
    """A record that cannot be what this program wrote; says which field and why."""


class Form(NamedTuple):
    """How one kind of value is written and read; `read` raises Unreadable."""

    write: Callable[[Any, Ages], Any]
    read: Callable[[Any, Ages], Any]


Forms = dict[str, Form]


def _as_it_is(value: Any, _ages: Ages) -> Any:
    return value


def _read_text(value: Any, _ages: Ages | None = None) -> str:
    if not isinstance(value, str):
        raise Unreadable("expected a text")
    if not value.isascii() and any("\ud800" <= each <= "\udfff" for each in value):
        raise Unreadable("holds a lone surrogate")  # no UTF-8 can hold it: it would break each scrape
    return value


def _read_number(value: Any, _ages: Ages | None = None) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unreadable("expected a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Unreadable("expected a finite number")
    return number


def _read_count(value: Any, _ages: Ages | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
        raise Unreadable("expected a whole number from 0 to 2^53")
    return value


def _read_flag(value: Any, _ages: Ages | None = None) -> bool:
    if not isinstance(value, bool):
        raise Unreadable("expected true or false")
    return value


def _read_age(value: Any, ages: Ages) -> float:
    return ages.mono(_read_number(value))


def _write_moment(value: Moment, ages: Ages) -> list[float]:
    return [ages.age(value.mono), value.wall]


def _read_moment(value: Any, ages: Ages) -> Moment:
    if not isinstance(value, list) or len(value) != MOMENT_PARTS:
        raise Unreadable("expected an age and a wall time")
    return Moment(_read_age(value[0], ages), _read_number(value[1]))


def _read_texts(value: Any, _ages: Ages) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise Unreadable("expected a list of texts")
    return tuple(_read_text(each) for each in value)


def _write_labels(value: tuple[tuple[str, str], ...], _ages: Ages) -> dict[str, str]:
    return dict(value)


def _read_labels(value: Any, _ages: Ages) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict):
        raise Unreadable("expected an object of texts")
    return tuple((_read_text(name), _read_text(text)) for name, text in value.items())


def word(words: type[StrEnum]) -> Form:
    """Make the form of one of a few words."""
    known = {str(each): each for each in words}

    def read(value: Any, _ages: Ages) -> StrEnum:
        try:
            return known[value]
        except (KeyError, TypeError):
            raise Unreadable(f"expected one of {', '.join(known)}") from None

    return Form(_as_it_is, read)


def or_none(form: Form) -> Form:
    """Make the form of a value that may be missing."""
    return Form(
        lambda value, ages: None if value is None else form.write(value, ages),
        lambda value, ages: None if value is None else form.read(value, ages),
    )


TEXT, NUMBER, COUNT, FLAG = (Form(_as_it_is, read) for read in (_read_text, _read_number, _read_count, _read_flag))
AGE = Form(lambda value, ages: ages.age(value), _read_age)
MOMENT = Form(_write_moment, _read_moment)
TEXTS = Form(lambda value, _ages: list(value), _read_texts)
LABELS = Form(_write_labels, _read_labels)


def write_fields(forms: Forms, value: Any, ages: Ages) -> Document:
    """Write those fields of a value that are not None."""
    written = {name: form.write(getattr(value, name), ages) for name, form in forms.items()}
    return {name: each for name, each in written.items() if each is not None}


def read_fields(forms: Forms, document: Any, ages: Ages) -> Document:
    """Read the fields of a value, each by its form. Raises Unreadable."""
    if not isinstance(document, dict):
        raise Unreadable("expected an object")
    values = {}
    for name, value in document.items():
        form = forms.get(name)
        if form is None:
            raise Unreadable(f"{name}: unknown field")
        try:
            values[name] = form.read(value, ages)
        except Unreadable as error:
            raise Unreadable(f"{name}: {error}") from None
    return values


def need(values: Document, *names: str) -> None:
    """Raise Unreadable where one of these was not read."""
    for name in names:
        if name not in values:
            raise Unreadable(f"{name}: missing")


def dump(document: Mapping[str, Any]) -> str:
    """Turn a document into one line of JSON; ASCII, so that no text can break the file or a terminal."""
    return json.dumps(document, separators=(",", ":"), allow_nan=False)


def parse(text: Any) -> Any:
    """Parse JSON. Raises Unreadable."""
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise Unreadable(f"not JSON ({type(error).__name__})") from None
