"""What a job says of its run: the body of a `PUT`, read into changes. Pure."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from exporter.operation import MAX_COUNT, Invalid, decode, parse_time
from exporter.tracking.runs import RunChanges, RunDeadline
from exporter.values import InvalidValue, parse_duration, quoted

KEYS = ("operations", "deadline", "closed")


def read_run_changes(body: bytes) -> RunChanges:
    """Read a body; an empty one says nothing. Raises InvalidValue."""
    if not body.strip():
        return RunChanges()
    try:
        document = decode(body)
    except Invalid as error:
        raise InvalidValue(f"the body is {error}") from None
    if not isinstance(document, dict):
        raise InvalidValue(f"the body: expected an object with some of {', '.join(KEYS)}")
    for key in document:
        if key not in KEYS:
            raise InvalidValue(f"{quoted(key)} is unknown (known: {', '.join(KEYS)})")
    changes = RunChanges()
    if "operations" in document:
        changes["operations"] = _operations(document["operations"])
    if "deadline" in document:
        changes["deadline"] = _deadline(document["deadline"])
    if "closed" in document:
        changes["closed"] = _closed(document["closed"])
    return changes


def _operations(found: Any) -> int | None:
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= MAX_COUNT:
        raise InvalidValue("operations: expected a whole number from 0, or null")
    return found


def _deadline(found: Any) -> RunDeadline | None:
    if found is None:
        return None
    if isinstance(found, str):
        with suppress(ValueError):
            return RunDeadline(at=parse_time(found))
        with suppress(InvalidValue):
            return RunDeadline(seconds=parse_duration(found))
    raise InvalidValue("deadline: expected a duration since the opening (3h), a time (2027-01-15T06:00:00Z), or null")


def _closed(found: Any) -> bool | None:
    if found is None or found is True:
        return found
    raise InvalidValue("closed: expected true, or null to take it back")
