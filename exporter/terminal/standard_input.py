"""What comes in on standard input: ids one a line, or JSON as Knock answered it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from exporter.operation import is_operation_id
from exporter.registrations import BELIEVED_KEYS, OWN_KEYS, InvalidRequest, is_record, read_lines
from exporter.values import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

Item = str | dict[str, Any]
_JSON_STARTS = ("{", "[", '"')


class Read(NamedTuple):
    """The items, and what is wrong with the others."""

    items: list[Item]
    problems: list[str]


def read(data: bytes) -> Read:
    """Read it all."""
    try:
        text = data.decode("utf-8-sig")
        found = list(_documents(text)) if text.lstrip().startswith(_JSON_STARTS) else read_lines(data)
    except (UnicodeDecodeError, InvalidRequest):
        return Read([], ["is not UTF-8 text"])
    except RecursionError:
        return Read([], ["is nested too deeply"])
    except json.JSONDecodeError as error:
        return Read([], [f"begins like JSON, but line {error.lineno} column {error.colno} is wrong: was it cut off?"])
    except ValueError:
        return Read([], ["has a number with too many digits"])
    return _sorted_out(found)


def ids_of(found: Read) -> tuple[list[str], list[str]]:
    """Return the ids alone, each once, in lower case; and all that is wrong."""
    ids = [str(each if isinstance(each, str) else each["id"]) for each in found.items]
    bad = [f"{quoted(each)} is not a valid UUID" for each in ids if not is_operation_id(each)]
    return list(dict.fromkeys(each.lower() for each in ids if is_operation_id(each))), found.problems + bad


def _documents(text: str) -> Iterator[Any]:
    """Yield the items of one JSON document after the other: a list's own, and answers of curl one behind the other."""
    decoder, place = json.JSONDecoder(), 0
    while rest := text[place:].lstrip():
        place = len(text) - len(rest)
        document, place = decoder.raw_decode(text, place)
        yield from document if isinstance(document, list) else [document]


def _sorted_out(found: list[Any]) -> Read:
    read = Read([], [])
    for number, each in enumerate(found, start=1):
        if isinstance(each, str):
            read.items.append(each)
        elif isinstance(each, dict) and "id" in each:
            read.items.append(_trimmed(each))
        else:
            read.problems.append(f"item {number} {_wrong(each)}")
    if not found:
        read.problems.append("names no operation")
    return read


def _trimmed(item: dict[str, Any]) -> dict[str, Any]:
    # The rest of a record is not believed anyway, and its error_items are personal data.
    kept = {*BELIEVED_KEYS, *OWN_KEYS}
    return {key: value for key, value in item.items() if key in kept} if is_record(item) else item


def _wrong(found: Any) -> str:
    if not isinstance(found, dict):
        return "is neither an id nor a record"
    told = [quoted(value) for key in ("code", "message") if isinstance(value := found.get(key), str)]
    return f"is an error of Knock, not a record: {' '.join(told)}" if told else "has no id"
