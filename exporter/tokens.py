"""Bearer tokens that allow programs to register operations, and the environments that each is good for.

Only digests are kept to compare with: they have one length, so that no comparison tells by its time how near a guess
was.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.errors import StartError
from exporter.keys import InvalidKey, KeyWatch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exporter.config.settings import TokenSource
    from exporter.keys import Secret

_BEARER = re.compile(r"bearer +([\x21-\x7e]+) *", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a good token allows: `environments` (None: all). `token` tells tokens apart, and is not shown."""

    token: bytes = field(repr=False)
    environments: frozenset[str] | None

    def allows(self, environment: str) -> bool:
        """Whether the token is good for an environment."""
        return self.environments is None or environment in self.environments


@dataclass(frozen=True, slots=True)
class Token:
    """A token, as its digest."""

    digest: bytes = field(repr=False)
    environments: frozenset[str] | None

    @classmethod
    def of(cls, secret: Secret, environments: frozenset[str] | None) -> Token:
        """Make one from what a source holds."""
        return cls(_digest(secret.reveal()), environments)


@dataclass(frozen=True, slots=True)
class Tokens:
    """All active tokens; false where there are none."""

    entries: tuple[Token, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.entries)

    def find(self, header: str) -> Grant | None:
        """Judge an `Authorization` header; a token that several sources hold is good for what any of them says."""
        match = _BEARER.fullmatch(header)
        digest = _digest(match[1] if match else "")
        # No early end: the time it takes must not tell which token a guess is like.
        found = [each for each in self.entries if hmac.compare_digest(each.digest, digest)]
        if match is None or not found:
            return None
        scopes = [each.environments for each in found if each.environments is not None]
        return Grant(digest, frozenset().union(*scopes) if len(scopes) == len(found) else None)


class TokenWatch:
    """Holds the active tokens, and tells when one has changed. Raises StartError where one cannot be read at first.

    `problem` is what was wrong at the last look, for the log; what cannot be read keeps its old token.
    """

    def __init__(self, sources: Sequence[TokenSource], environ: Mapping[str, str]) -> None:
        self._scopes = [source.scope for source in sources]
        self._secrets = [_read(source, environ) for source in sources]
        self._watches = [
            KeyWatch(source.token_file, secret) for source, secret in zip(sources, self._secrets, strict=True)
        ]
        self.tokens = self._made()
        self.problem: str | None = None

    def reload_if_changed(self, wall: float, environ: Mapping[str, str]) -> Tokens | None:
        """Read the sources at the wall-clock time `wall` (Unix seconds); return the tokens if one is a new one."""
        found = [watch.reload_if_changed(wall, environ) for watch in self._watches]
        self.problem = next((watch.problem for watch in self._watches if watch.problem), None)
        if not any(found):
            return None
        self._secrets = [new or old for new, old in zip(found, self._secrets, strict=True)]
        self.tokens = self._made()
        return self.tokens

    def _made(self) -> Tokens:
        return Tokens(tuple(map(Token.of, self._secrets, self._scopes)))


def _read(source: TokenSource, environ: Mapping[str, str]) -> Secret:
    try:
        return source.token_file.read(environ)
    except InvalidKey as error:
        raise StartError(f"registration token: {error}") from None


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
