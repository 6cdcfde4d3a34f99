"""Columns of a table, and fields of a line of an export: what each may hold, checked before anything is made of it."""

from __future__ import annotations

import json
import re
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from exporter.operation import MAX_COUNT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Row = tuple[Any, ...]

_SURROGATE = re.compile("[\ud800-\udfff]")


class UnreadableRow(ValueError):
    """What cannot be what this program wrote; says which field and why."""


class Kind(NamedTuple):
    """What a column may hold: values of these types, numbers only from `least` to `most`."""

    types: frozenset[type]
    expected: str
    least: float = -MAX_COUNT
    most: float = MAX_COUNT  # what is beyond is not a time, nor is infinity


def _maybe(kind: Kind) -> Kind:
    return kind._replace(types=kind.types | {type(None)})


TEXT = Kind(frozenset({str}), "a text")
FLAG = Kind(frozenset({int, bool}), "true or false", 0, 1)
COUNT = Kind(frozenset({int}), "a whole number from 0 to 2^53", 0)
NUMBER = Kind(frozenset({int, float}), "a finite number")
MAYBE_TEXT, MAYBE_FLAG, MAYBE_COUNT, MAYBE_NUMBER = (_maybe(kind) for kind in (TEXT, FLAG, COUNT, NUMBER))


class Layout:
    """The columns of a table, in order; `nested` are those that hold JSON, in an export as it is."""

    def __init__(self, columns: Mapping[str, Kind], nested: frozenset[str] = frozenset()) -> None:
        self.names = tuple(columns)
        self._columns = dict(columns)
        self._nested = nested
        self._known_types: set[tuple[type, ...]] = set()
        self._numbers = [
            _numbers(columns, *bounds) for bounds in {(kind.least, kind.most) for kind in columns.values()}
        ]

    def check(self, row: Row) -> Row:
        """Return the row if each value is of its column's kind. Raises UnreadableRow."""
        # All at once, and types that were good are good again: this is done for each row at the start.
        types = tuple(map(type, row))
        if types not in self._known_types:
            self._check_each(row)
            self._known_types.add(types)
        for get, least, most in self._numbers:
            numbers = [value for value in get(row) if value]
            if numbers and not (min(numbers) >= least and max(numbers) <= most):
                self._check_each(row)
        return row

    def _check_each(self, row: Row) -> None:
        for (name, kind), value in zip(self._columns.items(), row, strict=True):
            if type(value) not in kind.types or (
                isinstance(value, int | float) and not kind.least <= value <= kind.most
            ):
                raise UnreadableRow(f"{name}: missing" if value is None else f"{name}: expected {kind.expected}")

    def document(self, row: Row) -> dict[str, Any]:
        """Return a row as the fields of a line of an export; what is None is left out."""
        pairs = zip(self.names, row, strict=True)
        return {
            name: json.loads(value) if name in self._nested else value for name, value in pairs if value is not None
        }

    def row(self, document: Mapping[str, Any]) -> Row:
        """Return the checked row of a line of an export. Raises UnreadableRow."""
        for name in document:
            if name not in self._columns:
                raise UnreadableRow(f"{name}: unknown field")
        values = ((name, document.get(name)) for name in self.names)
        row = tuple(dump(value) if name in self._nested else value for name, value in values)
        if not is_encodable(value for value in row if isinstance(value, str)):
            raise UnreadableRow("a text holds a lone surrogate")
        return self.check(row)


def _numbers(columns: Mapping[str, Kind], least: float, most: float) -> tuple[Callable[[Row], Row], float, float]:
    kinds = enumerate(columns.values())
    places = [place for place, kind in kinds if (kind.least, kind.most) == (least, most) and str not in kind.types]
    if not places:
        return lambda _row: (), least, most
    return itemgetter(*places, places[0]), least, most  # one more: of a single place it would return no tuple


def is_encodable(texts: Iterable[str]) -> bool:
    """Whether UTF-8 can hold these: what holds a lone surrogate would break each scrape."""
    return not any(_SURROGATE.search(text) for text in texts if not text.isascii())


def dump(value: Any) -> str:
    """Turn a value into one line of JSON; ASCII, so that no text can break the file or a terminal."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def parse(text: str | bytes) -> Any:
    """Parse JSON. Raises UnreadableRow."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except UnreadableRow:
        raise
    except (ValueError, RecursionError) as error:
        raise UnreadableRow(f"not JSON ({type(error).__name__})") from None


def _refuse(constant: str) -> None:
    raise UnreadableRow(f"{constant} is not JSON")
