"""What pydantic found, in words for people; never with a value that might be a secret."""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from exporter.config.models import (
    ConfigKeys,
    EnvironmentKeys,
    HttpSourceKeys,
    Keys,
    OperationKeys,
    PaceKeys,
    PollingKeys,
    RegistrationKeys,
    StorageKeys,
    TokenKeys,
)
from exporter.config.values import quoted
from exporter.config.yaml_source import Found

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_LEVELS: dict[str, type[Keys]] = {
    "environments": EnvironmentKeys,
    "polling": PollingKeys,
    "operations": OperationKeys,
    "operations_http": HttpSourceKeys,
    "registration": RegistrationKeys,
    "tokens": TokenKeys,
    "storage": StorageKeys,
}
_MISSING = {
    "environments": "is missing (list at least one environment)",
    "name": "is missing (every environment needs a name, e.g. production)",
    "id": "is missing (every operation needs its id)",
    "url": "is missing (give the address of the list)",
    "token_file": "is missing (every token needs the file that holds it)",
    "path": "is missing (name the file that holds the state)",
}
_EXPECTED = {
    "string_type": "text",
    "string_unicode": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "literal_error": "{expected}",
    "greater_than": "more than {gt:.15g}",
    "greater_than_equal": "at least {ge:.15g}",
    "less_than_equal": "at most {le:.15g}",
}
_QUOTE = " (put it in quotes)"  # YAML makes booleans of yes, no, on and off
_NUMBER = re.compile(r"[-+]?[0-9]{1,15}(\.[0-9]{0,15})?([eE][-+]?[0-9]{1,2})?")
_MANY = 10**15  # Python refuses to write numbers of thousands of digits
_KNOWN_MOST = 50  # words that are compared with, and shown
_TEXT_LONGEST = 100  # difflib takes quadratic time


def reworded(error: ValidationError) -> list[Found]:
    """Turn pydantic's errors into ours."""
    details = error.errors(include_url=False)
    return [Found(_place(detail["loc"]), partial(_message, detail)) for detail in details]


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean …?)` where one of the known words is close, else what there is to choose from."""
    words = list(islice(known, _KNOWN_MOST + 1))
    if close := closest(word, words):
        return f' (did you mean "{close}"?)'
    more = ", …" if len(words) > _KNOWN_MOST else ""
    return f" (known: {', '.join(words[:_KNOWN_MOST]) or 'none'}{more})"


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is close to this one, if any is."""
    close = get_close_matches(word[:_TEXT_LONGEST], islice(known, _KNOWN_MOST), n=1)
    return close[0] if close else None


def _place(loc: tuple[str | int, ...]) -> tuple[str | int, ...]:
    return loc[:-1] if loc and loc[-1] == "[key]" else loc  # pydantic's mark for the key of a mapping


def _message(detail: ErrorDetails) -> str:
    kind, found, loc = detail["type"], detail["input"], detail["loc"]
    if kind == "extra_forbidden":
        return _unknown(loc)
    if kind == "missing":
        return _MISSING.get(str(loc[-1]), "is missing")
    if found is None:
        return "has no value (give one, or remove the line)"
    return _wrong_value(kind, found, detail.get("ctx", {}))


def _wrong_value(kind: str, found: Any, context: dict[str, Any]) -> str:
    if kind == "value_error":
        return str(context["error"])  # an InvalidValue of `values`
    if kind == "too_short":
        return "is empty (list at least one)"
    if kind not in _EXPECTED:
        return f"cannot be used ({kind.replace('_', ' ')})"
    return f"expected {_EXPECTED[kind].format_map(context)}, got {_shown(kind, found)}{_as_number(kind, found)}"


def _as_number(kind: str, found: Any) -> str:
    """Say how to write what is text by YAML 1.1, such as 1e1, or for its quotes."""
    if kind not in ("int_type", "float_type") or not isinstance(found, str) or not _NUMBER.fullmatch(found):
        return ""
    number = float(found)
    return f" (write {number:.15g}, without quotes)" if abs(number) <= _MANY else ""


def _shown(kind: str, found: Any) -> str:
    quote = _QUOTE if kind == "string_type" else ""
    if isinstance(found, bool):
        return f"true or false{quote}"
    if isinstance(found, (int, float)):
        return f"a number{quote}" if quote else _number(found)
    if isinstance(found, str):
        return quoted(found) if kind == "literal_error" else "text"
    return "a list" if isinstance(found, list) else "a mapping"


def _number(found: float) -> str:
    return "a huge number" if abs(found) > _MANY else str(found)


def _unknown(loc: tuple[str | int, ...]) -> str:
    key, level = str(loc[-1]), _level(loc[:-1])
    if issubclass(level, PaceKeys):
        if key in ConfigKeys.model_fields:
            return "unknown key here (it belongs to the top level)"
        if key in EnvironmentKeys.model_fields:
            return "unknown key here (it belongs to an environment)"
    return "unknown key" + suggestion(key, level.model_fields)


def _level(loc: tuple[str | int, ...]) -> type[Keys]:
    named = [part for part in loc if isinstance(part, str)]
    return _LEVELS[named[-1]] if named else ConfigKeys
