"""Lists of operations as users write them: bytes in, operations out, or BrokenList with what is wrong and where.

Plain text has an id a line; `groups` reads the other form. One bad entry breaks the whole list: what a file that was
cut off midway listed before must not be dropped.
"""

from __future__ import annotations

import io
import re
from enum import StrEnum
from pathlib import PurePath
from typing import TYPE_CHECKING

from exporter.garbage_collection import no_garbage_collection
from exporter.sources.groups import read_json, read_yaml
from exporter.sources.listing import MAX_BYTES, BrokenList, Listing

if TYPE_CHECKING:
    from collections.abc import Collection

    from exporter.config import ListedOperation

_BLANKS = " \t\r\n"
_COMMENT = re.compile(r"(?:^|[ \t]+)#")
_JSON_STARTS = ("{", "[")


class Form(StrEnum):
    """How a list is written."""

    TEXT = "text"
    YAML = "YAML"
    JSON = "JSON"


_FORMS = {".json": Form.JSON, ".yaml": Form.YAML, ".yml": Form.YAML}


def form_of(path: str) -> Form:
    """Tell a file's form by the end of its name."""
    return _FORMS.get(PurePath(path).suffix.lower(), Form.TEXT)


def parse(content: bytes | bytearray, form: Form, labels: Collection[str]) -> tuple[ListedOperation, ...]:
    """Read a list, in its own order; `labels` are the names of the declared extra labels. Raises BrokenList."""
    with no_garbage_collection():
        text = _decoded(content)
        if form is Form.TEXT:
            return _plain(text)
        if not text.strip():
            raise BrokenList("is empty (to list nothing, write [])")
        return read_json(text, labels) if form is Form.JSON else read_yaml(text, labels)


def _decoded(content: bytes | bytearray) -> str:
    if len(content) > MAX_BYTES:
        raise BrokenList(f"is larger than {MAX_BYTES // 2**20} MiB (split it)")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BrokenList(f"line {line}: is not UTF-8 text (save it as UTF-8)") from None


def _plain(text: str) -> tuple[ListedOperation, ...]:
    listing: Listing[int] = Listing(lambda line: f"line {line}")
    empty = True
    for number, line in enumerate(io.StringIO(text), start=1):
        entry = line.strip(_BLANKS)
        empty = empty and not entry
        if "#" in entry:
            entry = _COMMENT.split(entry, maxsplit=1)[0]
        if entry.startswith(_JSON_STARTS):
            listing.fault(number, "expected an id, got JSON (write the ids alone, one a line)")
        elif entry:
            listing.add(number, entry)
    if empty:
        raise BrokenList("is empty (to list nothing, write a comment such as # none)")
    return listing.operations()
