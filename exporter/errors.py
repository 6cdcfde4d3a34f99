"""Every error of this package, and who acts on it.

    ExporterError
    ├── ConfigError     the configuration: each problem with file, line and path; exit 1, or the old one stays
    ├── StartError      the machine: an address in use, …; exit 1
    └── KnockError      one request to Knock brought no operation
        ├── Unreachable   no answer (timeout, connect, tls): the operation is asked again later
        │   └── ConnectionLost   with a kept connection that had ended: asked again at once, once in a row
        ├── KeyRefused    the upstream is suspended until the key is good
        ├── NotFound      Knock's own 404: asked ever more rarely, lost in the end
        ├── RateLimited   the upstream waits `retry_after` and slows down
        ├── BadResponse   not what Knock documents: names the `field`
        ├── TooLarge      body over the bounds: asked once a minute at most
        ├── Postponed     our memory did not do: the operation stays due
        └── Refused       any other 4xx or 5xx

Foreign exceptions (requests, urllib3, yaml, pydantic) become one of these at the edge that meets them.
No message holds an API key: what could carry one goes through `redact`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Loc = tuple[str | int, ...]  # a place in a configuration, as pydantic names it: ("environments", 0, "name")
# A key, or one that was pasted behind something else; a word such as `task_id` is none.
_KEY = re.compile(r"(?:\b(sk|pk)_|(?<=_)(sk)_|(sk)_(?=test_|live_))[^\s\"',;}\]]+")
# A single slash, too: it is what a path makes of a URL. Up to the last @: a password may have signs of its own.
_URL = re.compile(r"(?i)(https?:/+)([^\s\"']{0,2048}@)?([^\s\"'?#]*)(\?[^\s\"'#]*)?")
_HASH = re.compile(r"(\$2[abxy]?\$)[^\s\"',;}\]]+")  # of bcrypt


def redact(text: str) -> str:
    """Mask whatever looks like a Knock key (`sk_…`, `pk_…`)."""
    if "k_" not in text:  # nearly always: the search takes as long as a twentieth of parsing a record
        return text
    return _KEY.sub(lambda found: f"{found[found.lastindex or 1]}_***", text)


def redact_all(text: str) -> str:
    """Mask also hashes, and user, password and query of URLs: for what somebody wrote, maybe in the wrong place."""
    return _HASH.sub(r"\1***", _URL.sub(_without_secrets, redact(text)))


def _without_secrets(found: re.Match[str]) -> str:
    scheme, login, place, query = found.groups()
    return f"{scheme}{'***@' if login else ''}{place}{'?***' if query else ''}"


class Reason(StrEnum):
    """Why a poll failed: the closed set of the label `reason`."""

    TIMEOUT = "timeout"
    CONNECT = "connect"
    TLS = "tls"
    UNAUTHORIZED = "unauthorized"
    NOT_FOUND = "not_found"
    RATE_LIMITED = "rate_limited"
    CLIENT_ERROR = "client_error"
    SERVER_ERROR = "server_error"
    BAD_RESPONSE = "bad_response"
    TOO_LARGE = "too_large"


class ExporterError(Exception):
    """The root: whatever this package raises on purpose."""


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One thing wrong in a configuration: what, where, and what to do."""

    path: str  # as in `environments[0].operations[2].id`; empty for the file as a whole
    message: str
    line: int | None = None  # counted from 1

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line is not None else ""
        return f"{where}{self.path}: {self.message}" if self.path else f"{where}{self.message}"


class Found(NamedTuple):
    """A problem before its place is looked up; `line` only where it is not the line of `loc`.

    A `message` that takes a while to word is made when it is shown. `file` is what may mend it without a change of the
    configuration.
    """

    loc: Loc
    message: str | Callable[[], str]
    line: int | None = None
    file: Path | None = None


class ConfigError(ExporterError):
    """A configuration that cannot be used, with its problems in the order of the file, and how many more there are.

    `mended_by` are the files that it names and that may mend all of it; none where it has to be changed itself.
    """

    def __init__(
        self, source: str, problems: tuple[ConfigProblem, ...], more: int = 0, mended_by: tuple[Path, ...] = ()
    ) -> None:
        self.source = source
        self.problems = problems
        self.mended_by = mended_by
        lines = [str(problem) for problem in problems] + ([f"and {more} more"] if more else [])
        super().__init__("\n".join(f"{source}: {line}" for line in lines))


class StartError(ExporterError):
    """The process cannot start on this machine as asked."""

    def __init__(self, message: str) -> None:
        super().__init__(redact_all(message))  # it may name a path, which may be what belongs elsewhere


class KnockError(ExporterError):
    """One request to Knock that brought no operation.

    `code` is the HTTP status (None: no answer), `request_id` Knock's `X-Request-ID`, `accepted_key` whether the
    answer shows that Knock took the key.
    """

    reason: Reason

    def __init__(
        self, message: str, *, code: int | None = None, request_id: str | None = None, accepted_key: bool = False
    ) -> None:
        self.code = code
        self.request_id = None if request_id is None else redact(request_id)
        self.accepted_key = accepted_key
        text = f"{message} (request {request_id})" if request_id else message
        super().__init__(redact(text))


class Unreachable(KnockError):
    """No answer: the time ran out, no connection, or no trust."""

    def __init__(self, reason: Reason, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class ConnectionLost(Unreachable):
    """A connection that was kept from before ended without a byte: no attempt that says anything of Knock."""


class KeyRefused(KnockError):
    """Knock does not take the key."""

    reason = Reason.UNAUTHORIZED


REFUSED_HINT = "revoked, cut off, or the key of another account?"


class NotFound(KnockError):
    """Knock itself says that there is no such operation for this key."""

    reason = Reason.NOT_FOUND


class RateLimited(KnockError):
    """A 429; `retry_after` in seconds, None where Knock named no time."""

    reason = Reason.RATE_LIMITED

    def __init__(self, message: str, *, retry_after: float | None, request_id: str | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message, code=429, request_id=request_id, accepted_key=True)


class BadResponse(KnockError):
    """An answer that is not what Knock documents; `field` names what is wrong with it."""

    reason = Reason.BAD_RESPONSE

    def __init__(
        self,
        field: str,
        message: str,
        *,
        code: int | None = None,
        request_id: str | None = None,
        accepted_key: bool = False,
    ) -> None:
        self.field = field
        super().__init__(f"{field}: {message}", code=code, request_id=request_id, accepted_key=accepted_key)


class TooLarge(KnockError):
    """A body past the bound of 16 MiB, or of more values than are decoded."""

    reason = Reason.TOO_LARGE


class Postponed(KnockError):
    """An answer that this process had no memory for: it tells nothing, of Knock nor of the operation."""

    reason = Reason.TOO_LARGE


class Refused(KnockError):
    """Any other 4xx (`client_error`) or 5xx (`server_error`)."""

    def __init__(self, message: str, *, code: int, request_id: str | None = None, accepted_key: bool = False) -> None:
        self.reason = Reason.SERVER_ERROR if code >= HTTPStatus.INTERNAL_SERVER_ERROR else Reason.CLIENT_ERROR
        super().__init__(message, code=code, request_id=request_id, accepted_key=accepted_key)
