"""Secrets that can be told from everything else, and where they have got to, in whatever form."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

HALF = 8  # characters; what cuts a text off leaves one of the halves
_ESCAPE = re.compile(rb"\\u00([0-9a-f]{2})|%([0-9a-f]{2})")


@dataclass(frozen=True)
class Marker:
    """A secret as it is sent, and the 16 letters and digits of it that occur nowhere else."""

    secret: str
    core: str

    def forms(self) -> frozenset[bytes]:
        """Return what shows the secret, in lower case: either half, backwards, in base64 and in hexadecimal digits."""
        halves = [self.core[:HALF].encode(), self.core[-HALF:].encode()]
        shown = [form for half in halves for form in (half, half[::-1], half.hex().encode(), *_encoded(half))]
        return frozenset(each.lower() for each in shown)

    def is_in(self, content: bytes) -> bool:
        """Whether a content shows it, escaped or not."""
        lower = content.lower()
        plain = _ESCAPE.sub(lambda found: bytes.fromhex((found[1] or found[2]).decode()), lower).lower()
        return any(form in text for form in self.forms() for text in {lower, plain})


def marker(core: str, form: str = "{}") -> Marker:
    """Make one; `form` has the place of the core in the secret."""
    return Marker(form.format(core), core)


def found(markers: Iterable[Marker], evidence: Mapping[str, bytes]) -> list[str]:
    """Name what shows any of them, with the text around it."""
    return [f"{place}: {each.core}" for each in markers for place, content in evidence.items() if each.is_in(content)]


def files_of(folder: Path, apart: Iterable[Path] = ()) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each file in a folder and those below it, and the names themselves."""
    without = set(apart)
    for path in sorted(folder.rglob("*")):
        if path not in without:
            yield f"name of {path.name}", path.name.encode()
            if path.is_file():
                yield path.name, path.read_bytes()


def _encoded(text: bytes) -> Iterator[bytes]:
    """Yield what any base64 of a longer text shows of it: it begins at one of three places of a group."""
    for before in range(3):
        first, end = -(-before * 8 // 6), (before + len(text)) * 8 // 6
        yield b64encode(b"\0" * before + text)[first:end]
