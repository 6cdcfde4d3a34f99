"""API keys: where they come from, and how they stay out of sight.

A Knock secret key can do everything in its environment, so its value lives in a `Secret` and leaves it in one place
only: the client's header set.
"""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter import files
from exporter.files import SETTLED_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from pydantic_core import CoreSchema

# Anything else would break, or be smuggled into, the Authorization header (http.client prints what it refuses).
_HEADER_SAFE = re.compile(r"[\x21-\x7e]+")
MASK = "***"
BEGINNING = "sk_"
_NO_KEYS = (
    (re.compile(r"[\"'`]|.*[\"'`]$"), "is in quotes (remove them)"),
    (re.compile(r"pk_"), 'is a public key (expected the secret one, which begins with "sk_")'),
    (
        re.compile(r"(?!sk_)[A-Za-z_]\w*=+[^=]"),
        "holds an assignment (expected the key alone, without what is before the =)",
    ),
    (
        re.compile(
            r"\$|\{\{|<|%\w+%$"
            r"|sk_(test_|live_)?((your|my|the|secret|api|key|here|example|placeholder)([_-]|$))+$",
            re.IGNORECASE,
        ),
        "is a placeholder that nothing has replaced by the key",
    ),
    (
        re.compile(r"[^A-Za-z0-9]+$|.*\*\*\*|(sk_(test_|live_)?)?[xX]+$|sk_$"),
        "is a mask or a beginning (expected the whole key)",
    ),
    (re.compile(r"c2tf[A-Za-z0-9+/_-]+=*$"), "is encoded in base64 (decode it first)"),  # as what begins with sk_ is
)
MAX_KEY_BYTES = 4096
SHORTEST_MASKED = 8  # characters; masking anything shorter would garble words
_WORDS = re.compile(r"[a-z_.]+")  # a password that is one can be told from no other


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

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: object) -> CoreSchema:
        from pydantic_core import core_schema  # noqa: PLC0415 - only what reads settings needs it

        shown = core_schema.plain_serializer_function_ser_schema(lambda _secret: MASK)
        text = core_schema.str_schema(strict=True)
        return core_schema.no_info_after_validator_function(cls, text, serialization=shown)


class Masking:
    """Masks what a server may send back of the secrets that it was sent. No repr shows them."""

    __slots__ = ("_secrets", "_spellings", "_written")

    def __init__(self, *secrets: str) -> None:
        self._secrets = sorted({each for each in secrets if len(each) >= SHORTEST_MASKED}, key=len, reverse=True)
        self._written = [json.dumps(each, ensure_ascii=False)[1:-1].encode() for each in self._secrets]
        self._spellings = [(b"\\/", b"/"), *_numbers({*"".join(self._secrets)} - {'"', "\\"})]

    def text(self, text: str) -> str:
        """Mask them in a text."""
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text

    def json(self, body: bytearray) -> bytearray:
        """Mask them in JSON, however they are written there; without them the body itself is returned."""
        # Each letter may be written as its number, and a slash behind a backslash, as PHP does.
        plain = self._plain(body) if b"\\u" in body or b"\\/" in body else body
        masked = plain
        for written in self._written:
            if written in masked:
                masked = masked.replace(written, MASK.encode())
        return body if masked is plain else masked

    def _plain(self, body: bytearray) -> bytearray:
        # One kind at a time: a body of nothing else would take many times its memory as a list of matches.
        plain = body.replace(b"\\\\", b"\0")  # what follows two of them is plain text
        for spelling, character in self._spellings:
            if spelling in plain:
                plain = plain.replace(spelling, character)
        return plain.replace(b"\0", b"\\\\")


def _numbers(characters: Iterable[str]) -> Iterator[tuple[bytes, bytes]]:
    for each in characters:
        number = f"{ord(each):04x}"
        for spelling in {number, number.upper()}:
            yield f"\\u{spelling}".encode(), each.encode()


def is_word(text: str) -> bool:
    """Whether a secret looks like a word that an answer holds anyway, so that masking it would only garble that."""
    return _WORDS.fullmatch(text) is not None


class InvalidKey(ValueError):
    """No key that could be sent; the message never holds what was found."""


def parse_key(text: str) -> Secret:
    """Take a key from a file's or variable's text; white space around it is not part of it. Raises InvalidKey."""
    key = text.removeprefix("\ufeff").strip()  # editors of Windows begin files with a byte order mark
    if not key:
        raise InvalidKey("is empty")
    if _HEADER_SAFE.fullmatch(key) is None:
        raise InvalidKey("holds white space or other characters that no key has (one key, on one line?)")
    return Secret(key)


def check_knock_key(key: str) -> None:
    """Refuse what cannot be a secret key of Knock, however it came to stand there. Raises InvalidKey."""
    for pattern, problem in _NO_KEYS:
        if pattern.match(key):
            raise InvalidKey(problem)


def doubt(key: Secret) -> str | None:
    """Say what makes a key unlikely to be one; None where nothing does."""
    return None if key.reveal().startswith(BEGINNING) else f"does not begin with {BEGINNING}, as Knock's secret keys do"


@dataclass(frozen=True, slots=True)
class KeySource:
    """Where a key or token comes from: exactly one of a file, an environment variable, or the value itself.

    What has fewer than `least` characters is refused: a token that somebody thought up can be guessed. With `knock`,
    what cannot be a key of Knock is refused too.
    """

    file: Path | None = None
    variable: str | None = None
    inline: Secret | None = None
    least: int = 1
    knock: bool = False

    def __str__(self) -> str:
        if self.file is not None:
            return str(self.file)
        return "the key" if self.variable is None else f"environment variable {self.variable}"

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
            return self._named(environ[self.variable])
        if self.inline is None:
            raise InvalidKey("no source is set")
        return self._named(self.inline.reveal())

    def _read_file(self, path: Path) -> Secret:
        try:
            text = files.read(path, MAX_KEY_BYTES).decode()
        except OSError as error:
            raise InvalidKey(f"{path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise InvalidKey(f"{path}: is not a text file") from None
        return self._named(text)

    def _named(self, text: str) -> Secret:
        try:
            found = parse_key(text)
            if self.knock:
                check_knock_key(found.reveal())
        except InvalidKey as error:
            raise InvalidKey(f"{self} {error}") from None
        return found


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
    def current(self) -> Secret:
        """The key as it was last told."""
        return self._current

    @property
    def unsettled(self) -> bool:
        """Whether the last look saw another content that may not be whole yet."""
        return self._candidate is not None

    def reload_if_changed(self, wall: float, environ: Mapping[str, str]) -> Secret | None:
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


def exposure(file: Path, statvfs: Callable[[Path], os.statvfs_result] = os.statvfs) -> str | None:
    """Say that a file with a secret can be read by others than its owner and group; None where that is not so.

    A read-only file system is passed over: secrets that Kubernetes or Docker mount have a mode that nobody here can
    change, and that no other user sees. So is a file in a folder that others cannot enter.
    """
    try:
        mode = file.stat().st_mode
        reached = all(each.stat().st_mode & stat.S_IXOTH for each in file.resolve().parents)
        exposed = mode & stat.S_IROTH and reached and not statvfs(file).f_flag & os.ST_RDONLY
    except OSError:
        return None
    return f"can be read by other users (mode {stat.S_IMODE(mode):04o}; chmod o-r {file})" if exposed else None
