"""Secrets that can be told from everything else, and where they have got to, in whatever form."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

HALF = 8  # characters; what cuts a text off leaves one of the halves
_ESCAPE = re.compile(rb"\\u00([0-9a-f]{2})|%([0-9a-f]{2})")


@dataclass(frozen=True)
class Marker:
    """A secret as it is sent, and the 16 letters and digits of it that occur nowhere else."""

    secret: str
    core: str

    @cache  # noqa: B019 - there are a dozen
    def forms(self) -> frozenset[bytes]:
        """Return what shows the secret, in lower case: either half, backwards, in base64 and in hexadecimal digits."""
        halves = [self.core[:HALF].encode(), self.core[-HALF:].encode()]
        shown = [form for half in halves for form in (half, half[::-1], half.hex().encode(), *_encoded(half))]
        return frozenset(each.lower() for each in shown)

    def is_in(self, texts: Iterable[bytes]) -> bool:
        """Whether what `legible` made of a content shows it."""
        return any(form in text for text in texts for form in self.forms())


def marker(core: str, form: str = "{}") -> Marker:
    """Make one; `form` has the place of the core in the secret."""
    return Marker(form.format(core), core)


def legible(content: bytes) -> tuple[bytes, ...]:
    """Return a content in lower case, and without the escapes of JSON and URLs if it has any."""
    lower = content.lower()
    plain = _ESCAPE.sub(lambda found: bytes.fromhex((found[1] or found[2]).decode()), lower).lower()
    return (lower,) if plain == lower else (lower, plain)


def files_of(folder: Path, apart: Path) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of each file and folder in a folder, but for what is in another one."""
    for path in sorted(folder.rglob("*")):
        if not path.is_relative_to(apart):
            yield str(path.relative_to(folder)), path.name.encode() + (path.read_bytes() if path.is_file() else b"")


def _encoded(text: bytes) -> Iterator[bytes]:
    """Yield what any base64 of a longer text shows of it: it begins at one of three places of a group."""
    for before in range(3):
        first, end = -(-before * 8 // 6), (before + len(text)) * 8 // 6
        yield b64encode(b"\0" * before + text)[first:end]
