"""What pydantic found, in words for people; never with a value that might be a secret."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from exporter.errors import Found
from exporter.values import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from _typeshed import DataclassInstance
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

    from exporter.errors import Loc

_MISSING = {
    "environments": "is missing (list at least one environment)",
    "name": "is missing (every environment needs a name, e.g. production)",
    "groups.name": "is missing (every group needs its name)",
    "id": "is missing (every operation needs its id)",
    "url": "is missing (give the address of the list)",
    "token_file": "is missing (every token needs the file that holds it)",
    "path": "is missing (name the file that holds the state)",
}
_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping of keys to values",
    "dataclass_type": "a mapping of keys to values",
    "literal_error": "{expected}",
    "greater_than": "more than {gt:.15g}",
    "greater_than_equal": "at least {ge:.15g}",
    "less_than_equal": "at most {le:.15g}",
}
_KEY = "[key]"  # pydantic's mark for the key of a mapping
_NUMBER = re.compile(r"[-+]?[0-9]{1,15}(\.[0-9]{0,15})?([eE][-+]?[0-9]{1,2})?")
_MANY = 10**15  # Python refuses to write numbers of thousands of digits
_KNOWN_MOST = 50  # words that are compared with, and shown
_TEXT_LONGEST = 100  # difflib takes quadratic time


@dataclass(frozen=True, slots=True)
class Wording:
    """Words what pydantic found in `data`, which has these sections; where it is `brief`, not what stood there."""

    data: Any
    sections: Mapping[str, Sequence[type[DataclassInstance]]]  # by their names in the file; "" is the top level
    brief: bool = False

    def found(self, error: ValidationError) -> list[Found]:
        """Turn pydantic's errors into ours."""
        return [self._found(detail) for detail in error.errors(include_url=False, include_input=False)]

    def _found(self, detail: ErrorDetails) -> Found:
        loc = detail["loc"]
        place = loc[:-1] if loc[-1:] == (_KEY,) else loc
        file = getattr(detail.get("ctx", {}).get("error"), "file", None)
        return Found(place, partial(self._message, detail), file=file)

    def _message(self, detail: ErrorDetails) -> str:
        kind, loc, context = detail["type"], detail["loc"], detail.get("ctx", {})
        if kind == "unexpected_keyword_argument":
            return self._unknown(loc)
        if kind == "missing":
            key = str(loc[-1])
            return _MISSING.get(f"{_section(loc)}.{key}") or _MISSING.get(key, "is missing")
        found = loc[-2] if loc[-1:] == (_KEY,) else _value(self.data, loc)
        if found is None and not (self.brief and kind == "value_error"):
            return "has no value (give one, or remove the line)"
        if kind == "value_error":
            return str(context["error"])  # an InvalidValue of `values`
        expected = f"expected {_EXPECTED.get(kind, kind).format_map(context)}"
        if self.brief:
            return expected + (" (without quotes)" if kind == "bool_type" else _hint(kind, found))
        return f"{expected}, got {_shown(kind, found)}{_hint(kind, found)}"

    def _unknown(self, loc: Loc) -> str:
        key = str(loc[-1])
        section = _section(loc)
        if section == "environments" and key in self._keys(""):
            return "unknown key here (it belongs to the top level)"
        if not section and key in self._keys("environments"):
            return "unknown key here (it belongs to an environment)"
        known = self._keys(section)
        told = suggestion(key, known, "unknown key")
        if section == "operations" and closest(key, known) is None:  # not a typing mistake
            return f"{told}; of Knock's record write the id alone"
        return told

    def _keys(self, section: str) -> list[str]:
        return [each.name for part in self.sections.get(section, ()) for each in fields(part)]


def _section(loc: Loc) -> str:
    return next((part for part in reversed(loc[:-1]) if isinstance(part, str)), "")


def _value(data: Any, loc: Loc) -> Any:
    """Return what stands at a place; of an item that is written shorter, as its id alone, the item."""
    for part in loc:
        if not isinstance(data, (dict, list)):
            break
        data = data.get(part) if isinstance(data, dict) else data[int(part)]
    return data


def suggestion(word: str, known: Iterable[str], message: str = "") -> str:
    """Add ` (did you mean …?)` to a message where a known word is close, else what there is to choose from."""
    words = list(islice(known, _KNOWN_MOST + 1))
    if close := closest(word, words):
        return f'{message} (did you mean "{close}"?)'
    more = ", …" if len(words) > _KNOWN_MOST else ""
    return f"{message} (known: {', '.join(words[:_KNOWN_MOST]) or 'none'}{more})"


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is close to this one, if any is."""
    close = get_close_matches(word[:_TEXT_LONGEST], islice(known, _KNOWN_MOST), n=1)
    return close[0] if close else None


def _hint(kind: str, found: Any) -> str:
    """Say how to write what YAML took for something else."""
    if kind == "string_type" and not isinstance(found, (dict, list)):
        return " (put it in quotes)"  # booleans are made of yes, no, on and off
    if kind == "tuple_type":
        return " (begin each item with -)"
    is_number = kind in ("int_type", "float_type") and isinstance(found, str) and _NUMBER.fullmatch(found)
    if is_number and abs(float(found)) <= _MANY:  # 1e1 is text by YAML 1.1
        return f" (write {float(found):.15g}, without quotes)"
    return ""


def _shown(kind: str, found: Any) -> str:
    if isinstance(found, bool):
        return "true or false"
    if isinstance(found, (int, float)):
        number = "a huge number" if abs(found) > _MANY else str(found)
        return "a number" if kind == "string_type" else number
    if isinstance(found, str):
        return quoted(found) if kind == "literal_error" else "text"
    return "a list" if isinstance(found, list) else "a mapping"
