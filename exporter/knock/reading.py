"""A record's bytes → an operation, decoding nothing but what is read.

Failed items come by the hundred thousand, and json would make 270 MB of an object of a million keys.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING, Any

from msgspec import DecodeError, Raw, Struct, ValidationError
from msgspec.json import Decoder, decode
from msgspec.structs import asdict

from exporter.operation import COLLECTION_LENGTH_MOST, Invalid, collection_name, parse_operation, ranked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.operation import Operation

_SURROGATE = re.compile(rb"\\(u[dD][89a-fA-F][0-9a-fA-F]{2})")
_REPLACEMENT = b"ufffd"  # as long as what it replaces
_NULL = Raw(b"null")
_LIST, _OBJECT = b"[{"
_NESTED: dict[int, list[Any] | dict[str, Any]] = {_LIST: [], _OBJECT: {}}
_COLLECTION_BYTES_MOST = 12 * COLLECTION_LENGTH_MOST + 2  # each character as two escapes, and the quotes


class _Item(Struct, gc=False):
    collection: Raw = _NULL


class _Record(Struct):
    id: Raw = _NULL
    status: Raw = _NULL
    name: Raw = _NULL
    processed_rows: Raw = _NULL
    estimated_total_rows: Raw = _NULL
    success_count: Raw = _NULL
    error_count: Raw = _NULL
    error_items: Raw = _NULL
    inserted_at: Raw = _NULL
    updated_at: Raw = _NULL
    started_at: Raw = _NULL
    completed_at: Raw = _NULL
    failed_at: Raw = _NULL


_RECORD, _ITEM, _ITEMS, _ANY = Decoder(_Record), Decoder(_Item), Decoder(list[_Item]), Decoder(list[Raw])


def read_operation(body: bytearray, asked_id: str) -> Operation:
    """Read a record as Knock documents it; raises `Invalid` as `parse_operation` does. The body may be changed."""
    try:
        record, mended = _record(body)
        document = {name: _value(raw) for name, raw in asdict(record).items()}
        operation = parse_operation(document, asked_id, len(body))
        if _begin(record.error_items) == _LIST:
            counted = Counter(_collection(bytes(raw)) for raw in _collections(record.error_items))
            if counted:
                operation = replace(operation, error_items=counted.total(), collections=ranked(counted))
        if mended and "\N{REPLACEMENT CHARACTER}" in operation.name:
            raise Invalid("name", "holds a lone surrogate")  # noqa: TRY301  as parse_operation says it
    except Invalid:
        raise
    except ValidationError:
        raise Invalid("body", "expected an object") from None
    except RecursionError:
        raise Invalid("body", "nested too deeply") from None
    except ValueError as error:  # syntax and encoding
        raise Invalid("body", f"not JSON ({type(error).__name__})") from None
    return operation


def _record(body: bytearray) -> tuple[_Record, bool]:
    """Decode a record; a lone surrogate, which msgspec does not take, must not hide it. Returns whether it did."""
    try:
        return _RECORD.decode(body), False
    except ValidationError:
        raise
    except DecodeError:
        for match in _SURROGATE.finditer(body):
            body[slice(*match.span(1))] = _REPLACEMENT
        return _RECORD.decode(body), True


def _begin(raw: Raw) -> int:
    return memoryview(raw)[0]


def _value(raw: Raw) -> Any:
    """Decode a value; of a list or an object only what it is, since none is read."""
    nested = _NESTED.get(_begin(raw))
    if nested is not None:
        return nested
    try:
        return decode(raw)  # json.loads takes 5 times as long: together half of the time of reading a record
    except ValidationError:
        return inf  # a number beyond all that can be counted


def _collections(items: Raw) -> Iterator[Raw]:
    try:
        yield from (each.collection for each in _ITEMS.decode(items))
    except ValidationError:  # some are not objects
        for each in _ANY.decode(items):
            yield _ITEM.decode(each).collection if _begin(each) == _OBJECT else _NULL


@lru_cache(1024)
def _collection(raw: bytes) -> str:
    return collection_name(_value(Raw(raw)) if len(raw) <= _COLLECTION_BYTES_MOST else [])
