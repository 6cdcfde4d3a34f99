"""API keys: where they come from, and how they stay out of sight.

A Knock secret key can do everything in its environment, so its value lives in a `Secret` and leaves it in one place
only: the client's header set.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter import files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# Anything else would break, or be smuggled into, the Authorization header (http.client prints what it refuses).
_HEADER_SAFE = re.compile(r"[\x21-\x7e]+")
MASK = "***"
MAX_KEY_BYTES = 4096
SETTLED_SECONDS = 1.0  # a file not written to for this long is taken as whole


class Secret:
    """A text that no repr, log line or traceback shows; equal and hashable by its value."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value itself: for the Authorization header, nowhere else."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


class InvalidKey(ValueError):
    """No key that could be sent; the message never holds what was found."""


def parse_key(text: str) -> Secret:
    """Take a key from a file's or variable's text; white space around it is not part of it. Raises InvalidKey."""
    key = text.strip()
    if not key:
        raise InvalidKey("is empty")
    if _HEADER_SAFE.fullmatch(key) is None:
        raise InvalidKey("holds white space or other characters that no key has (one key, on one line?)")
    return Secret(key)


@dataclass(frozen=True, slots=True)
class KeySource:
    """Where a key or token comes from: exactly one of a file, an environment variable, or the value itself.

    What has fewer than `least` characters is refused: a token that somebody thought up can be guessed.
    """

    file: Path | None = None
    variable: str | None = None
    inline: Secret | None = None
    least: int = 1

    def read(self, environ: Mapping[str, str]) -> Secret:
        """Read the key as it stands now. Raises InvalidKey, which says what is wrong with which source."""
        if self.file is not None:
            found = self._read_file(self.file)
            if len(found.reveal()) < self.least:
                raise InvalidKey(
                    f"{self.file} is too short for a token "
                    f"(expected at least {self.least} characters; make one with: openssl rand -hex 32)"
                )
            return found
        if self.variable is not None:
            if self.variable not in environ:
                raise InvalidKey(f"environment variable {self.variable} is not set")
            return _named(f"environment variable {self.variable}", environ[self.variable])
        if self.inline is None:
            raise InvalidKey("no source is set")
        return _named("the key", self.inline.reveal())

    @staticmethod
    def _read_file(path: Path) -> Secret:
        try:
            text = files.read(path, MAX_KEY_BYTES).decode()
        except OSError as error:
            raise InvalidKey(f"{path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise InvalidKey(f"{path}: is not a text file") from None
        return _named(str(path), text)


def _named(where: str, text: str) -> Secret:
    try:
        return parse_key(text)
    except InvalidKey as error:
        raise InvalidKey(f"{where} {error}") from None


class KeyWatch:
    """Tells when a key has changed, for one environment; only whole files count.

    A content is whole once its file was not written to for SETTLED_SECONDS, or two looks in a row saw the same. What is
    empty, unreadable or no key keeps the old one.
    """

    def __init__(self, source: KeySource, current: Secret) -> None:
        self._source = source
        self._current = current
        self._candidate: Secret | None = None
        self.problem: str | None = None  # of the last look, for the log

    @property
    def unsettled(self) -> bool:
        """Whether the last look saw another content that may not be whole yet."""
        return self._candidate is not None

    def look(self, wall: float, environ: Mapping[str, str]) -> Secret | None:
        """Read the source at the wall-clock time `wall` (Unix seconds); return the key if it is a new one."""
        try:
            found = self._source.read(environ)
            age = wall - self._source.file.stat().st_mtime if self._source.file else SETTLED_SECONDS
        except (InvalidKey, OSError) as error:
            self._candidate = None
            self.problem = str(error)
            return None
        self.problem = None
        if found == self._current:
            self._candidate = None
            return None
        if age < SETTLED_SECONDS and found != self._candidate:
            self._candidate = found
            return None
        self._current, self._candidate = found, None
        return found
