"""A bulk operation as Knock told it last: values, no I/O.

Fields and their quirks come from Knock's API reference (`GET /v1/bulk_operations/{id}`) and recorded payloads.
Nothing is guessed: what Knock did not say is None, and what contradicts the documentation is refused.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from exporter.errors import redact

FIRST_SECOND, END_OF_TIME = -62_135_596_800, 253_402_300_800  # Unix seconds: the years 1 to 9999
MAX_COUNT = 2**53  # beyond it a Prometheus sample (a float64) is no longer exact
COLLECTIONS_MOST, COLLECTION_LENGTH_MOST = 20, 64  # by which failed items are counted; the rest is one
OTHER_COLLECTIONS = "other"
STATUS_WORD_MOST = 64
ID_BYTES = 16
NIL_ID = "00000000-0000-0000-0000-000000000000"  # no operation has it: asking for it only checks the key
UNKNOWN_NAME = "unknown"
GROUP = "default"  # says nothing: another source may name a group
OTHER = "other"  # what is past the limit of groups or names is shown as this

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_RFC3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]((?:[01][0-9]|2[0-3]):[0-5][0-9]):([0-5][0-9]|60)(\.[0-9]+)?"
    r"([Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)


class Status(StrEnum):
    """Where an operation stands; UNKNOWN for a word that Knock does not document."""

    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    UNKNOWN = "unknown"

    @property
    def final(self) -> bool:
        """Whether Knock will never change it again."""
        return self in FINAL


FINAL = frozenset({Status.COMPLETED, Status.FAILED})
_STATUSES = {str(status): status for status in Status if status is not Status.UNKNOWN}


class OperationKey(NamedTuple):
    """What makes an operation one: an id counts within its environment only."""

    environment: str
    id: str


class Invalid(ValueError):
    """A record that contradicts the documentation; `field` names where."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Operation:
    """One answer of Knock. Counts are rows, times are Unix seconds; None: Knock did not say.

    `collections` counts the failed items by their collection, the most frequent first ("": they have none).
    `status_word` is Knock's word for a status that it does not document, as far as it can be shown. `size` is how many
    bytes the answer had.
    """

    id: str
    status: Status
    name: str = UNKNOWN_NAME
    rows_processed: int | None = None
    rows_estimated: int | None = None
    successes: int | None = None
    errors: int | None = None
    error_items: int | None = None
    inserted_at: float | None = None
    updated_at: float | None = None
    started_at: float | None = None
    completed_at: float | None = None
    failed_at: float | None = None
    collections: tuple[tuple[str, int], ...] = ()
    status_word: str | None = None
    size: int = field(default=0, compare=False)

    @property
    def shown_status(self) -> str:
        """The status as people are shown it: with Knock's own word where Knock documents none such."""
        return str(self.status) if self.status_word is None else f"{self.status} ({self.status_word})"

    @property
    def ran_for(self) -> float | None:
        """Seconds from start to end; None where Knock told no such time."""
        if self.started_at is None or (end := self.finished_at) is None or end < self.started_at:
            return None
        return end - self.started_at

    @property
    def finished_at(self) -> float | None:
        """When it ended: `completed_at` or `failed_at`, `updated_at` where a final record has neither."""
        if not self.status.final:
            return None
        first, second = self.completed_at, self.failed_at
        if self.status is Status.FAILED:
            first, second = second, first
        end = first if first is not None else second
        return end if end is not None else self.updated_at

    @property
    def progress(self) -> tuple[object, ...]:
        """What counts as a change: status and counts, since nobody knows whether `updated_at` moves."""
        return (self.status, self.rows_processed, self.rows_estimated, self.successes, self.errors, self.error_items)


def is_operation_id(text: str) -> bool:
    """Whether the text is a UUID as Knock writes it (hyphenated; any case)."""
    return _UUID.fullmatch(text) is not None


def pack_id(operation_id: str) -> bytes:
    """Turn a UUID into its 16 bytes."""
    return bytes.fromhex(operation_id.replace("-", ""))


def unpack_id(packed: bytes | bytearray) -> str:
    """Turn 16 bytes into a UUID as Knock writes it."""
    text = packed.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def decode(body: bytes | bytearray) -> Any:
    """Parse JSON from the wire; every way in which it can be broken is an `Invalid` for `body`."""
    try:
        return json.loads(body)
    except RecursionError:  # "[[[[…": raised by the json module itself
        raise Invalid("body", "nested too deeply") from None
    except ValueError as error:  # syntax, encoding, and integers too long for Python
        raise Invalid("body", f"not JSON ({type(error).__name__})") from None


def parse_operation(document: Any, asked_id: str, size: int = 0) -> Operation:
    """Read a record as Knock documents it; raises `Invalid` naming the first field that is not so.

    `size` is how many bytes the answer had.
    """
    if not isinstance(document, dict):
        raise Invalid("body", f"expected an object, got {_kind(document)}")
    if _text(document, "id").lower() != asked_id.lower():
        raise Invalid("id", "another id than the one asked for")
    word = _text(document, "status")
    status = _STATUSES.get(word, Status.UNKNOWN)
    return Operation(
        id=asked_id,
        status=status,
        status_word=_shown_word(word) if status is Status.UNKNOWN else None,
        name=_name(document.get("name")),
        rows_processed=_count(document, "processed_rows"),
        rows_estimated=_count(document, "estimated_total_rows"),
        successes=_count(document, "success_count"),
        errors=_count(document, "error_count"),
        error_items=_length(document.get("error_items")),
        collections=_collections(document.get("error_items")),
        inserted_at=_time(document, "inserted_at"),
        updated_at=_time(document, "updated_at"),
        started_at=_time(document, "started_at"),
        completed_at=_time(document, "completed_at"),
        failed_at=_time(document, "failed_at"),
        size=size,
    )


def parse_time(text: str) -> float:
    """Turn an RFC 3339 timestamp into Unix seconds; raises ValueError for anything else.

    A leap second (`:60`) counts as the second after `:59`, as Unix time has it.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError("not an RFC 3339 timestamp")
    day, minute, second, fraction, zone = match.groups()
    leap = second == "60"
    zone = "+00:00" if zone in "Zz" else zone
    moment = datetime.fromisoformat(f"{day}T{minute}:{'59' if leap else second}{(fraction or '')[:7]}{zone}")
    seconds = moment.timestamp() + leap
    if not FIRST_SECOND <= seconds < END_OF_TIME:  # in UTC it is not a date that Python can write
        raise ValueError("outside the years 1 to 9999")
    return seconds


def _text(document: dict[str, Any], field: str) -> str:
    value = document.get(field)
    if not isinstance(value, str):
        raise Invalid(field, f"expected a string, got {_kind(value)}")
    return value


def _shown_word(word: str) -> str:
    shown = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in word)
    return redact(shown[:STATUS_WORD_MOST])


def _name(value: Any) -> str:
    if value is None or value == "":
        return UNKNOWN_NAME
    if not isinstance(value, str):
        raise Invalid("name", f"expected a string, got {_kind(value)}")
    if not value.isascii() and _SURROGATE.search(value):  # no UTF-8 can hold it: it would break each scrape
        raise Invalid("name", "holds a lone surrogate")
    return redact(value)


def _count(document: dict[str, Any], field: str) -> int | None:
    value = document.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Invalid(field, f"expected a whole number, got {_kind(value)}")
    if not 0 <= value <= MAX_COUNT or int(value) != value:  # NaN and infinity fail the comparison
        raise Invalid(field, "expected a whole number from 0 to 2^53")
    return int(value)


def _time(document: dict[str, Any], field: str) -> float | None:
    value = document.get(field)
    if value is None:
        return None
    if not isinstance(value, str):
        raise Invalid(field, f"expected an RFC 3339 timestamp, got {_kind(value)}")
    try:
        return parse_time(value)
    except (ValueError, OverflowError):
        raise Invalid(field, "not an RFC 3339 timestamp") from None


def _length(value: Any) -> int | None:
    # error_items hold personal data and are documented loosely: only how many there are is taken, and a
    # broken list must not hide the status.
    return len(value) if isinstance(value, list) else None


def _collections(value: Any) -> tuple[tuple[str, int], ...]:
    if not isinstance(value, list) or not value:
        return ()
    names = (item.get("collection") if isinstance(item, dict) else None for item in value)
    return ranked(Counter(map(collection_name, names)))


def ranked(counted: Counter[str]) -> tuple[tuple[str, int], ...]:
    """Return the collections of failed items, the most frequent first; the rest is one."""
    named = counted.most_common(COLLECTIONS_MOST)
    rest = counted.total() - sum(count for _, count in named)
    return (*named, (OTHER_COLLECTIONS, rest)) if rest else tuple(named)


def collection_name(name: Any) -> str:
    """Return by which collection a failed item is counted; None: it has none."""
    if name is None:
        return ""
    if not isinstance(name, str) or len(name) > COLLECTION_LENGTH_MOST or not name.isprintable():
        return OTHER_COLLECTIONS
    return redact(name)


def _kind(value: Any) -> str:
    names = {type(None): "nothing", bool: "a boolean", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")
